"""How what `bench` found looks: tables of models, where the time goes, what tuning came to, and comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekd.cli import ui
from edgekd.text import bytes_text, conditions_text, counted, energy_text, milliseconds, ratio_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHOWN: Final = 10
KINDS: Final = {"int8": "INT8", "float": "floating point", "movement": "data movement", "other": "other"}


def bench_result(content: Mapping[str, Any]) -> None:
    """Print latency and memory of every model, its profile, and what tuning found."""
    bench_table(content)
    for model in content["models"]:
        if model["profile"] is not None:
            profile(model)
    if content["tuning"] is not None:
        tuning(content["tuning"])


def bench_table(content: Mapping[str, Any]) -> None:
    """Print latency and memory of every model, and what an inference costs where a sensor or an emulator tells."""
    models = content["models"]
    if any(model["instructions"] is not None for model in models):
        columns = ["model", "threads", "instructions"]
        counts = ("-" if model["instructions"] is None else f"{model['instructions']:,}" for model in models)
        rows = [[model["path"], str(model["threads"]), count] for model, count in zip(models, counts, strict=True)]
    else:
        columns = ["model", "threads", "p50", "p90", "p90 bound", "ratio", "peak memory", "steady memory"]
        rows = [_measured(model) for model in models]
    if any(model["energy"] for model in models):
        columns.append("energy")
        for row, model in zip(rows, models, strict=True):
            row.append(energy_text(model["energy"]))
    device = content["device"]
    ui.table(f"{device['name']} ({device['target']}), conditions: {content['conditions']['verdict']}", columns, rows)
    ui.say(conditions_text(content["conditions"]))


def _measured(model: Mapping[str, Any]) -> list[str]:
    memory = model["memory_bytes"] or {}
    return [
        model["path"],
        str(model["threads"]),
        *(milliseconds(model["latency_ms"], key) for key in ("p50", "p90", "p90_upper")),
        ratio_text(model["ratio_to_first"]),
        *(bytes_text(memory.get(phase)) for phase in ("peak", "steady")),
    ]


def paced_table(content: Mapping[str, Any]) -> None:
    """Print what every model does at a pace of inputs."""
    columns = ("model", "threads", "spin", "p50", "p90", "p90 bound", "run p50", "missed deadlines", "CPU")
    rows = [
        (
            model["path"],
            str(model["threads"]),
            "on" if model["session"]["spinning"] else "off",
            milliseconds(model["latency_ms"], "p50"),
            milliseconds(model["latency_ms"], "p90"),
            milliseconds(model["latency_ms"], "p90_upper"),
            milliseconds(model["run_ms"], "p50"),
            f"{model['late'] + model['skipped']} of {model['due']}",
            f"{model['cpu_share']:.1%}",
        )
        for model in content["models"]
    ]
    device, verdict = content["device"], content["conditions"]["verdict"]
    pace = f"{content['rate_per_s']:g} inputs a second"
    ui.table(f"{device['name']} ({device['target']}), {pace}, conditions: {verdict}", columns, rows)
    ui.say(conditions_text(content["conditions"]))


def comparison_text(content: Mapping[str, Any]) -> None:
    """Print a line for each model of a comparison."""
    for change in content["models"]:
        threads = counted(change["threads"], "thread")
        parts = []
        if (latency := change["latency"]) is not None:
            parts.append(
                f"p50 {latency['base_p50']:.3g} ms -> {latency['new_p50']:.3g} ms, {signed(latency['ratio'])} "
                f"[{signed(latency['lower'])}, {signed(latency['upper'])}], noise {latency['noise_floor']:.1%}: "
                f"{'no difference' if latency['verdict'] == 'none' else latency['verdict']}"
            )
        if (memory := change["memory"]) is not None:
            before, after = bytes_text(memory["base"]), bytes_text(memory["new"])
            parts.append(f"peak memory {before} -> {after}, {signed(memory['ratio'])}")
        word = "regression" if change["regressions"] else "ok"
        ui.say(f"{word}: {change['model']} ({threads}): {'; '.join(parts) or 'nothing was measured'}")
    for path in content["tainted"]:
        ui.remark(f"note: {path} was measured while other work was running")


def signed(ratio: float) -> str:
    """Return a ratio as a change in per cent."""
    return f"{100 * (ratio - 1):+.1f} %"


def profile(model: Mapping[str, Any]) -> None:
    """Print where the time of a model goes, by operator and by node."""
    found = model["profile"]
    name = f"{Path(model['path']).name}, {threads_text(model['threads'])}"
    shares = ", ".join(f"{words} {found['kinds'][kind]:.0%}" for kind, words in KINDS.items() if found["kinds"][kind])
    columns = ("operator", "kind", "nodes", "time", "share")
    rows = [
        (row["operator"], KINDS[row["kind"]], str(row["nodes"]), f"{row['time_us']:g} us", f"{row['share']:.1%}")
        for row in found["operators"][:SHOWN]
    ]
    ui.table(f"{name}: time by operator{_first(found['operators'])}", columns, rows)
    rows = [
        (row["name"], row["operator"], KINDS[row["kind"]], f"{row['time_us']:g} us", f"{row['share']:.1%}")
        for row in found["nodes"][:SHOWN]
    ]
    ui.table(f"{name}: time by node{_first(found['nodes'])}", ("node", "operator", "kind", "time", "share"), rows)
    ui.say(
        f"{name}: {shares or 'too short to tell'}; the nodes sum to {found['nodes_ms']:.4g} ms over "
        f"{counted(found['runs'], 'profiled run')}, {found['nodes_over_p50']:.2f} times the p50 without the profiler"
    )


def _first(rows: Sequence[object]) -> str:
    return f" (the {SHOWN} slowest of {len(rows)})" if len(rows) > SHOWN else ""


def tuning(found: Mapping[str, Any]) -> None:
    """Print what was tried and what came of it."""
    columns = ("varied", "setting", "p50", "ratio", "steady memory", "")
    rows = [
        (
            step["varied"],
            setting_text(candidate["session"]),
            f"{candidate['p50_ms']:.4g} ms",
            ratio_text(candidate["ratio"]),
            bytes_text(candidate["steady_bytes"]),
            "taken" if candidate["taken"] else "",
        )
        for step in found["steps"]
        for candidate in step["candidates"]
    ]
    ui.table("settings, each against the first of its step", columns, rows)
    if found["improved"]:
        ratio = ratio_text(found["ratio"])
        ui.say(f"tuned: {setting_text(found['session'])}; against the default, measured anew: {ratio}")
    else:
        again = f" ({ratio_text(found['ratio'])} when measured anew)" if found["ratio"] is not None else ""
        ui.say(f"the default is as good: nothing is faster beyond the noise{again}")
    if found["arena_off_saves_bytes"] is not None:
        ui.say(
            f"without the arena it is no slower and {bytes_text(found['arena_off_saves_bytes'])} less stay resident: "
            'set "enable_cpu_mem_arena" to false where memory is short'
        )


def setting_text(session: Mapping[str, Any]) -> str:
    """Return a session's settings in a few words; what is onnxruntime's own is left out but for the threads."""
    parts = [threads_text(session["intra_op_num_threads"])]
    parts += [] if session["intra_op_spinning"] else ["no spinning"]
    parts += [] if session["enable_cpu_mem_arena"] else ["no arena"]
    level = session["graph_optimization_level"]
    parts += [] if level == "all" else [f"optimization {level}"]
    return ", ".join(parts)


def threads_text(threads: int) -> str:
    """Return a number of threads in words; 0 leaves it to onnxruntime."""
    return counted(threads, "thread") if threads else "threads by default"
