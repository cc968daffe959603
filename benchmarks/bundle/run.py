"""What a bundle's Python package costs over bare onnxruntime, from the start of Python to the first answer's end.

    pip install -r benchmarks/quantize/requirements.txt
    EDGEKD_DATA=FOLDER python benchmarks/bundle/run.py --work WORK [--pairs N]

WORK keeps the models, as for benchmarks/harness. Whole processes alternate (bare, packaged, packaged, bare), so slow
drift falls out; times are their wall time, memory is the peak that the kernel has noted (VmHWM). All figures go into
results-<instruction set>.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from prepared import prepare

import edgekd
from edgekd.artifact import library_versions, write_json
from edgekd.benchmarking.statistics import paired_ratio
from edgekd.targets import detect_host

HERE = Path(__file__).parent
MODELS = (("digits student", "edgekd"), ("EfficientNet-Lite0", "edgekd"), ("EfficientNet-Lite0", "fp32"))
GOAL = {"time_ratio": 1.15, "memory_bytes": 10_000_000}


def run(program: str, argument: Path) -> tuple[float, int]:
    """Return the seconds that a process took, and its peak memory in bytes."""
    start = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, str(HERE / program), str(argument)], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - start, int(ran.stdout) * 1024


def compare(model: Path, bundle: Path, pairs: int) -> dict[str, Any]:
    """Return what the package costs over bare onnxruntime."""
    times: dict[str, list[float]] = {"bare.py": [], "packaged.py": []}
    peaks: dict[str, list[int]] = {"bare.py": [], "packaged.py": []}
    places = {"bare.py": model, "packaged.py": bundle}
    for program in places:
        run(program, places[program])  # the files' first reading
    for number in range(pairs):
        for program in list(places)[:: 1 if number % 2 else -1]:
            seconds, peak = run(program, places[program])
            times[program].append(seconds)
            peaks[program].append(peak)
    ratio = paired_ratio(times["packaged.py"], times["bare.py"])
    bare, packaged = (median(peaks[program]) for program in places)
    return {
        "pairs": pairs,
        "bare_s": round(median(times["bare.py"]), 4),
        "packaged_s": round(median(times["packaged.py"]), 4),
        **{key: round(getattr(ratio, key), 4) for key in ("median", "lower", "upper")},
        "bare_bytes": round(bare),
        "packaged_bytes": round(packaged),
        "more_bytes": round(packaged - bare),
        "met": ratio.median <= GOAL["time_ratio"] and packaged - bare <= GOAL["memory_bytes"],
    }


def main() -> None:
    """Compare, write the results, and print the README's table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="where the models are kept")
    parser.add_argument("--pairs", type=int, default=40)
    settings = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, tool) in enumerate(MODELS):
            prepared = prepare(name, settings.work)
            model = prepared.fp32 if tool == "fp32" else prepared.int8(tool)
            app = Path(folder) / str(number)
            edgekd.bundle([model], app, platforms=["python"])
            row = {"model": name, "file": tool, **compare(model, app, settings.pairs)}
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    target = detect_host().name
    content = {
        "schema": "edgekd.benchmark/1",
        "study": "bundle",
        "target": target,
        "versions": library_versions(["numpy", "onnxruntime"]),
        "goal": GOAL,
        "rows": rows,
    }
    write_json(HERE / f"results-{target}.json", content)
    print("| model | bare, s | package, s | ratio | interval | bare, MB | more, MB |\n|---|---|---|---|---|---|---|")
    for row in rows:
        kind = "fp32" if row["file"] == "fp32" else "int8"
        print(
            f"| {row['model']}, {kind} | {row['bare_s']:.3f} | {row['packaged_s']:.3f} | {row['median']:.3f} | "
            f"{row['lower']:.3f}-{row['upper']:.3f} | {row['bare_bytes'] / 1e6:.1f} | {row['more_bytes'] / 1e6:.1f} |"
        )


if __name__ == "__main__":
    main()
