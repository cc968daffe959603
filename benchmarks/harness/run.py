"""The benchmark's own figures against those of a loop written by hand, of /usr/bin/time and of /proc.

    pip install -r benchmarks/quantize/requirements.txt
    EDGEKD_DATA=FOLDER python benchmarks/harness/run.py --work WORK --prepare
    EDGEKD_DATA=FOLDER python benchmarks/harness/run.py --work WORK

The first makes the models and takes its time; the second measures, on a machine that does nothing else. FOLDER holds
imagenet-sample.tar and banking77/. Writes results-<instruction set>.json beside this file and prints the tables of
the README.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

sys.path.append(str(Path(__file__).parents[1]))

from prepared import MODELS, Prepared, prepare

import edgekd
from edgekd.artifact import library_versions, write_json
from edgekd.benchmarking.statistics import paired_ratio
from edgekd.targets import detect_host

HERE = Path(__file__).parent
GOAL = 0.02  # of the median: how far our p50 may be from that of the loop
PHASES = ("import", "session", "first_run", "steady")
# The phases of edgekd whose peaks a process has been through when it ends in one of the loop's.
PASSED = {
    "import": ("interpreter", "import"),
    "session": ("interpreter", "import", "session_peak", "session"),
    "first_run": ("interpreter", "import", "session_peak", "session", "first_run"),
    "steady": ("peak",),
}
INT8 = "edgekd"  # the tool of the quantization study: for this machine
COMPARED = (  # a file of tens of ms, its INT8 file, and one of some microseconds, where every call counts
    ("EfficientNet-Lite0", "fp32"),
    ("EfficientNet-Lite0", INT8),
    ("digits student", "fp32"),
)
REPEATS = 6  # processes of `edgekd bench` by default
DURATION_S = 2.0  # and the time of their timed runs


def bare(model: Path, phase: str, seconds: float) -> dict[str, Any]:
    """Run the loop in a process of its own, under /usr/bin/time; return what both say, and the seconds it took."""
    command = ["/usr/bin/time", "-v", sys.executable, "-P", str(HERE / "bare.py"), str(model), phase, str(seconds)]
    start = time.monotonic()
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    elapsed_s = time.monotonic() - start
    found = re.search(r"Maximum resident set size \(kbytes\): (\d+)", ran.stderr)
    assert found is not None
    return {**json.loads(ran.stdout), "maximum_bytes": int(found[1]) * 1024, "elapsed_s": elapsed_s}


def compare_times(model: Path, pairs: int, seconds: float) -> dict[str, Any]:
    """Return our p50 over that of the loop: in each pair two processes of ours run between two of the loop."""
    ours, theirs, verdicts = [], [], []
    for _ in range(pairs):
        before = bare(model, "steady", seconds)
        found = edgekd.bench([model], duration_s=2 * seconds, repeats=2)
        after = bare(model, "steady", seconds)
        latency = found.models[0].latency_ms
        assert latency is not None
        ours.append(latency.p50)
        theirs.append(median(before["samples_ms"] + after["samples_ms"]))
        verdicts.append(found.conditions.verdict)
    ratio = paired_ratio(ours, theirs)
    return {
        "p50_ms": median(ours),
        "loop_p50_ms": median(theirs),
        **{key: round(getattr(ratio, key), 4) for key in ("median", "min", "max", "lower", "upper", "noise_floor")},
        "pairs": pairs,
        "within_goal": abs(ratio.median - 1) <= GOAL,
        "disturbed_pairs": sum(verdict != "valid" for verdict in verdicts),
    }


def compare_memory(model: Path, processes: int = 5) -> dict[str, Any]:
    """Return the peak of resident memory up to the end of each phase: ours, the loop's own, that of /usr/bin/time."""
    memory = edgekd.bench([model], runs=60, repeats=REPEATS).models[0].memory_bytes
    assert memory is not None
    rows = {}
    for phase in PHASES:
        seen = [bare(model, phase, 0.3) for _ in range(processes)]
        known = [memory[name] for name in PASSED[phase]]
        rows[phase] = {
            "ours_bytes": max(one for one in known if one is not None),
            "proc_bytes": round(median(one["peak_bytes"] for one in seen)),
            "time_bytes": round(median(one["maximum_bytes"] for one in seen)),
        }
    return rows


def overhead(model: Path) -> dict[str, float]:
    """Return what `edgekd bench MODEL` takes beyond its timed runs, and as many processes of the loop."""
    command = [sys.executable, "-m", "edgekd", "bench", str(model)]
    start = time.monotonic()
    subprocess.run(command, capture_output=True, check=True)
    elapsed_s = time.monotonic() - start
    loops_s = sum(bare(model, "steady", DURATION_S / REPEATS)["elapsed_s"] for _ in range(REPEATS))
    return {
        "timed_s": DURATION_S,
        "seconds": round(elapsed_s, 2),
        "overhead_s": round(elapsed_s - DURATION_S, 2),
        "loop_overhead_s": round(loops_s - DURATION_S, 2),
    }


def int8_against_fp32(model: Prepared, duration_s: float) -> dict[str, Any]:
    """Return what INT8 changes on this machine: answers, time, memory, size."""
    files = [model.fp32, model.int8(INT8)]
    found = edgekd.evaluate(files[1], model.folder / "judges.npz", reference=files[0])
    timed = edgekd.bench(files, duration_s=duration_s, data=model.timed)
    ratio = timed.models[1].ratio_to_first
    assert ratio is not None
    return {
        **{key: found.to_json()[key] for key in ("samples", "top1", "agreement", "sqnr_db")},
        "p50_ms": [one.latency_ms and one.latency_ms.p50 for one in timed.models],
        "peak_bytes": [one.memory_bytes and one.memory_bytes["peak"] for one in timed.models],
        "file_bytes": [file.stat().st_size for file in files],
        **{key: getattr(ratio, key) for key in ("median", "lower", "upper", "verdict")},
        "conditions": timed.conditions.verdict,
    }


def main() -> None:
    """Compare all of it, write the results and print them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="where the models are kept")
    parser.add_argument("--prepare", action="store_true", help="make the models, and nothing else")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0, help="timed runs of each process")
    parser.add_argument("--row", choices=MODELS, help="measure this model's INT8 against fp32, and keep the rest")
    settings = parser.parse_args()
    target = detect_host().name
    results = HERE / f"results-{target}.json"
    if settings.row:
        known = json.loads(results.read_bytes())
        row = int8_against_fp32(prepare(settings.row, settings.work), 6 * settings.seconds)
        known["int8_against_fp32"][settings.row] = row
        write_json(results, known)
        print_int8(known["int8_against_fp32"])
        return
    models = {name: prepare(name, settings.work) for name in MODELS}
    for model in models.values():
        model.int8(INT8)
    if settings.prepare:
        return
    rows = []
    for name, file in COMPARED:
        path = models[name].fp32 if file == "fp32" else models[name].int8(file)
        row = {
            "model": f"{name}, {'fp32' if file == 'fp32' else 'int8'}",
            "latency": compare_times(path, settings.pairs, settings.seconds),
            "memory": compare_memory(path),
            "overhead": overhead(path),
        }
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    table = {name: int8_against_fp32(model, 6 * settings.seconds) for name, model in models.items()}
    result = {
        "schema": "edgekd.benchmark/1",
        "study": "harness",
        "target": target,
        "versions": library_versions(["numpy", "onnx", "onnxruntime"]),
        "goal": GOAL,
        "rows": rows,
        "int8_against_fp32": table,
    }
    write_json(results, result)
    print_tables(rows)
    print_int8(table)


def print_tables(rows: list[dict[str, Any]]) -> None:
    """Print the README's tables."""
    print(
        "| model | p50, ms | loop's p50, ms | ratio | interval | pairs | disturbed |\n|---|---|---|---|---|---|---|"
    )
    for row in rows:
        found = row["latency"]
        print(
            f"| {row['model']} | {found['p50_ms']:.4g} | {found['loop_p50_ms']:.4g} | {found['median']:.3f} | "
            f"{found['lower']:.3f}-{found['upper']:.3f} | {found['pairs']} | {found['disturbed_pairs']} |"
        )
    print("\n| model | peak until the end of | edgekd, MB | VmHWM of the loop, MB | /usr/bin/time, MB |")
    print("|---|---|---|---|---|")
    for row in rows:
        for phase, found in row["memory"].items():
            sizes = (f"{found[key] / 1e6:.1f}" for key in ("ours_bytes", "proc_bytes", "time_bytes"))
            print(f"| {row['model']} | {phase.replace('_', ' ')} | {' | '.join(sizes)} |")
    print("\n| model | `edgekd bench`, s | of which timed | beyond | loops beyond |\n|---|---|---|---|---|")
    for row in rows:
        found = row["overhead"]
        sizes = (f"{found[key]:.1f}" for key in ("seconds", "timed_s", "overhead_s", "loop_overhead_s"))
        print(f"| {row['model']} | {' | '.join(sizes)} |")


def print_int8(table: dict[str, dict[str, Any]]) -> None:
    """Print the README's table of INT8 against fp32."""
    print("\n| model | top-1 | agreement | SQNR, dB | p50, ms: fp32, int8 | ratio | peak MB | file MB |")
    print("|---|---|---|---|---|---|---|---|")
    for name, found in table.items():
        scored = found["top1"] is not None  # an encoder has no classes
        figures = [f"{found[key]:.3f}" if scored else "-" for key in ("top1", "agreement")]
        times = ", ".join(f"{value:.3g}" for value in found["p50_ms"])
        peaks, sizes = (
            ", ".join(f"{value / 1e6:.3g}" for value in found[key]) for key in ("peak_bytes", "file_bytes")
        )
        print(
            f"| {name} | {' | '.join(figures)} | {found['sqnr_db']:.1f} | {times} | {found['median']:.2f} "
            f"({found['lower']:.2f}-{found['upper']:.2f}) | {peaks} | {sizes} |"
        )


if __name__ == "__main__":
    main()
