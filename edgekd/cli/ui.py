"""What people see: progress on standard error, results on standard output. The only module that draws."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from edgekd.errors import OutputError
from edgekd.text import (
    bytes_text,
    conditions_text,
    cost_text,
    counted,
    energy_text,
    help_sentences,
    milliseconds,
    ratio_text,
    search_sentences,
    share,
    transfer_sentences,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from edgekd.progress import Progress, Task

PLAIN_EVERY_S = 10.0
BARS_EVERY_S = 0.1
NAMED = 8  # layers listed by name
_UNBOUNDED = 1_000_000


def say(text: str) -> None:
    """Print a result on standard output.

    Raises:
        OutputError: it cannot be written.
        BrokenPipeError: nobody reads it any more.
    """
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output: cannot write here: {error.strerror or error}") from error


def remark(text: str) -> None:
    """Print a line on standard error; no work is lost because it cannot be written.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    try:
        click.echo(text, err=True)
    except BrokenPipeError:
        raise
    except OSError:
        pass


def progress() -> Progress:
    """Return bars with time left on a terminal, plain lines elsewhere."""
    return _Bars() if sys.stderr.isatty() else _Lines()


class _Bars:
    """Progress bars, one step at a time."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Task]:
        """Draw a bar while the step runs, and leave a line when it is done."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        # drawn when there is something new, and asleep while a benchmark runs
        with Progress(*columns, console=self._console, auto_refresh=False) as bars:
            bar = _Bar(bars, bars.add_task(title, total=total, completed=done, note=""))
            yield bar
            bars.refresh()

    def note(self, message: str) -> None:
        """Print a remark."""
        self._console.print(message, style="dim", markup=False, highlight=False)


class _Bar:
    def __init__(self, bars: Any, number: Any) -> None:
        self._bars = bars
        self._number = number
        self._drawn = 0.0
        bars.refresh()

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Move the bar, and draw it at most ten times a second."""
        fields = {} if note is None else {"note": note}
        self._bars.update(self._number, advance=units, **fields)
        now = time.monotonic()
        if now - self._drawn >= BARS_EVERY_S:
            self._bars.refresh()
            self._drawn = now


class _Lines:
    """Plain lines, for logs: a step's start, a sign of life every 10 s, its end."""

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Task]:
        """Print when the step starts and ends."""
        remark(f"{title} ...")
        start = time.monotonic()
        yield _Line(title, total, done)
        remark(f"{title}: done in {time.monotonic() - start:.1f} s")

    def note(self, message: str) -> None:
        """Print a remark."""
        remark(message)


class _Line:
    def __init__(self, title: str, total: int, done: int) -> None:
        self._title, self._total, self._done, self._first = title, total, done, done
        self._start = self._last = time.monotonic()

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Print now and then how far it is and what is left."""
        self._done += units
        now = time.monotonic()
        if now - self._last < PLAIN_EVERY_S:
            return
        self._last = now
        left_s = (now - self._start) / (self._done - self._first) * (self._total - self._done)
        share = self._done / self._total
        extra = f", {note}" if note else ""
        remark(f"{self._title}: {share:.0%}, about {left_s:.0f} s left{extra}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output; the first column is text, the others are numbers.

    Nothing of it is ever cut: on a terminal too narrow for it, each row becomes a list.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    for number, column in enumerate(columns):
        drawn.add_column(Text(column), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console = Console()
    width = Measurement.get(console, console.options.update(width=_UNBOUNDED), drawn).maximum
    if console.is_terminal and console.width < width:
        say("\n\n".join([title, *(_listed(columns, row) for row in rows)]))
        return
    console.width = max(width, cell_len(title))
    with console.capture() as text:
        console.print(drawn)
    say(text.get())


def _listed(columns: Sequence[str], row: Sequence[str]) -> str:
    """Return a row of a table as a list."""
    width = max(len(column) for column in columns[1:])
    return "\n".join(
        [row[0], *(f"  {name:<{width}}  {cell}" for name, cell in zip(columns[1:], row[1:], strict=True))]
    )


def report_table(content: Mapping[str, Any]) -> None:
    """Print the table a run ends with, and in words what it cost."""
    columns = (
        *("", "parameters", "file", "accuracy", "agrees with teacher"),
        *("p50", "p90", "peak memory"),
    )
    rows = [
        (
            model["role"].replace("-", " "),
            f"{model['parameters']:,}",
            bytes_text(model["file_bytes"]),
            share(model["top1"]),
            share(model["agreement_teacher"]),
            milliseconds(model["latency_ms"], "p50"),
            milliseconds(model["latency_ms"], "p90"),
            bytes_text((model["memory_bytes"] or {}).get("peak")),
        )
        for model in content["models"]
    ]
    device = content["device"]
    table(
        f"{content['name']}: {counted(content['samples'], 'test sample')}, {device['name']} ({device['target']})",
        columns,
        rows,
    )
    if content["seeds"] is not None:
        seeds_table(content["seeds"])
    models = {model["role"]: model for model in content["models"]}
    for sentence in (*help_sentences(content), *transfer_sentences(content)):
        say(sentence)
    say(
        f"{cost_text(models['teacher'], models['student-int8'])}; it agrees with the fp32 student on "
        f"{share(content['int8']['agreement_fp32'])} of the samples."
    )
    if content["int8"]["fp32_reason"] is not None:
        say(f"On the validation split: {content['int8']['fp32_reason']}.")
    ratio = content["int8"]["latency_ratio_fp32"]
    if ratio is not None:
        slower = "; at this size the INT8 file is the slower one" if ratio["verdict"] == "slower" else ""
        say(f"Its latency is {ratio['median']:.2f} times the fp32 student's in alternating runs{slower}.")
    if content["conditions"]["verdict"] != "valid":
        say(f"Conditions of the latencies: {content['conditions']['verdict']}")


def seeds_table(content: Mapping[str, Any]) -> None:
    """Print the test accuracy of every seed; a star marks the one that was kept."""
    rows = [
        (
            role,
            share(content[role]["mean"]),
            share(content[role]["std"]),
            *(
                f"{share(top1)}{' *' if seed == content[role]['shipped_seed'] else ''}"
                for seed, top1 in zip(content["seeds"], content[role]["test_top1"], strict=True)
            ),
        )
        for role in ("student", "control")
        if content[role] is not None
    ]
    seeds = (f"seed {seed}" for seed in content["seeds"])
    table("test accuracy by seed (* kept: the best on the validation split)", ("", "mean", "std", *seeds), rows)


def search_table(content: Mapping[str, Any], recipe: Path, folder: Path) -> None:
    """Print the trials of a search, the best first, and the winner as settings."""
    columns = ("trial", "method", "temperature", "alpha", "learning rate", "validation accuracy", "epochs", "state")
    ranked = sorted(content["trials"], key=lambda trial: -(trial["validation_top1"] or 0))
    ranked.sort(key=lambda trial: (trial["trial"] != content["best"]["trial"], trial["state"] != "complete"))
    rows = [
        (
            str(trial["trial"]),
            trial["method"],
            *(f"{trial[name]:g}" for name in ("temperature", "alpha", "learning_rate")),
            share(trial["validation_top1"]),
            str(trial["epochs"]),
            trial["state"],
        )
        for trial in ranked
    ]
    table(f"{content['name']}: search on the validation split", columns, rows)
    for sentence in search_sentences(content):
        say(sentence)
    say(f"As a section: {folder / 'best.toml'}; as one command:")
    say(shlex.join(["edgekd", "run", str(recipe), "--set", content["best"]["set"]]))


def quantization_text(path: Path, content: Mapping[str, Any], size: int) -> str:
    """Return what a quantized file is: a line for the file, and one for each thing to know of it."""
    from edgekd.quantization.synthetic import SYNTHETIC_WARNING

    lines = [] if not content["calibration"]["synthetic"] else [("calibration", f"SYNTHETIC: {SYNTHETIC_WARNING}")]
    if content["effective"].get("batch_dependent"):
        lines.append(("batches", "an answer depends on the samples beside it; scored one sample at a time"))
    lines += [
        ("saturation", _saturation_words(content["saturation"])),
        ("in fp32", _fp32_words(content)),
        ("at run time", _audit_words(content["audit"])),
    ]
    if content["speed"] is not None:
        lines.append(("speed", speed_words(content["speed"])))
    if content["evaluation"] is not None:
        lines.append(("accuracy", evaluation_text(content["evaluation"])))
    told = "\n".join(f"  {name:<12} {words}" for name, words in lines)
    return f"{path}: {bytes_text(size)} for {content['target']}\n{told}"


def _saturation_words(saturation: Mapping[str, Any]) -> str:
    """Return the certificate's verdict."""
    able = saturation["can_saturate"]
    layers = f"{able or 'none'} of {counted(saturation['layers'], 'layer')} can saturate on {saturation['target']}"
    return f"{layers}; the worst: {saturation['worst'][0]['layer']}" if able and saturation["worst"] else layers


def _fp32_words(content: Mapping[str, Any]) -> str:
    """Return which layers stay in fp32, and why."""
    layers, reason, mode = content["fp32_layers"], content["fp32_reason"], content["effective"]["mode"]
    if mode == "fp16":
        return "all of it: only the weights are stored in fp16"
    if not layers and not reason:
        return "no layer"
    plain = "they do not read weights that are quantized"
    why = reason or ("dynamic INT8 is for matrices of weights" if mode == "dynamic" else plain)
    more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
    return f"{', '.join(layers[:NAMED]) or 'no layer'}{more}: {why}"


def _audit_words(audit: Mapping[str, Any]) -> str:
    """Return what onnxruntime makes of the file."""
    integers = counted(sum(audit["quantized"].values()), "integer operator")
    words = f"{integers}, {counted(audit['surviving_qdq'], 'Q/DQ conversion')} left"
    broken = [island for island in audit["fp32_islands"] if island["place"] == "between"]
    if broken:
        names = ", ".join("+".join(island["operators"]) for island in broken)
        words += f", fp32 between integers: {names}"
    if audit["time_us"] is not None:
        slow = sum(island["share"] for island in audit["fp32_islands"])
        words += f", {slow:.0%} of the time in fp32"
    return words


def speed_words(speed: Mapping[str, Any]) -> str:
    """Return how long an inference takes beside the fp32 model."""
    ratio = speed["ratio"]
    verdicts = {"slower": "SLOWER than fp32", "faster": "faster than fp32", "none": "no difference from fp32"}
    return (
        f"{verdicts[ratio['verdict']]}: {speed['file_ms']:.3g} ms against {speed['fp32_ms']:.3g} ms, "
        f"{ratio['median']:.2f} times [{ratio['lower']:.2f}, {ratio['upper']:.2f}] in {ratio['pairs']} alternating "
        "pairs of blocks, one thread"
    )


def evaluation_text(content: Mapping[str, Any]) -> str:
    """Return the figures of an evaluation in a line."""
    parts = [counted(content["samples"], "sample")]
    if content["top1"] is not None:
        against = "" if content["reference_top1"] is None else f" (reference {share(content['reference_top1'])})"
        parts.append(f"top-1 {share(content['top1'])}{against}")
    if content["agreement"] is not None:
        parts.append(f"agrees with the reference on {share(content['agreement'])}")
        parts.append(f"SQNR {content['sqnr_db']:.1f} dB")
    return ", ".join(parts)


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
    table(f"{device['name']} ({device['target']}), conditions: {content['conditions']['verdict']}", columns, rows)
    say(conditions_text(content["conditions"]))


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
    table(f"{device['name']} ({device['target']}), {pace}, conditions: {verdict}", columns, rows)
    say(conditions_text(content["conditions"]))


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
        say(f"{word}: {change['model']} ({threads}): {'; '.join(parts) or 'nothing was measured'}")
    for path in content["tainted"]:
        remark(f"note: {path} was measured while other work was running")


def signed(ratio: float) -> str:
    """Return a ratio as a change in per cent."""
    return f"{100 * (ratio - 1):+.1f} %"


def facts(content: Mapping[str, Any]) -> None:
    """Print names and values, one a line."""
    width = max(len(name) for name in content)
    for name, value in content.items():
        say(f"{name:<{width}}  {value}")
