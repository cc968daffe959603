"""What stored answers cost in accuracy: one view of each image, four, and a teacher that answers live.

    OMP_NUM_THREADS=1 python benchmarks/distill/views.py [--work WORK] [--seeds N]

The recipe of the digits, with N seeds each; the teacher is trained once. The figures go into results-views.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import edgekd
from edgekd.artifact import library_versions, write_json
from edgekd.resources import resource_folder
from edgekd.seeds import gain

HERE = Path(__file__).parent
WAYS: dict[str, list[str]] = {
    "live": [],
    "4 views": ["distill.cache={views = 4}"],
    "1 view": ["distill.cache={views = 1}"],
}


def main() -> None:
    """Train, write the figures, and print the README's table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, help="keep the run here")
    parser.add_argument("--seeds", type=int, default=5)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = settings.work or Path(temporary)
        found = {way: accuracies(folder, settings.seeds, changes) for way, changes in WAYS.items()}
    live = found["live"]
    rows = [
        {
            "way": way,
            "test_top1": scores,
            "mean": round(float(np.mean(scores)), 4),
            "std": round(float(np.std(scores, ddof=1)), 4),
            "against_live": None if way == "live" else gain(scores, live),
        }
        for way, scores in found.items()
    ]
    versions = library_versions(["numpy", "torch"])
    write_json(
        HERE / "results-views.json",
        {"schema": "edgekd.benchmark/1", "study": "distill-views", "versions": versions, "rows": rows},
    )
    print("| teacher | test accuracy | std | against live, points | p |\n|---|---|---|---|---|")
    for row in rows:
        told = row["against_live"]
        apart = "| |" if told is None else f"{100 * told['difference']:+.2f} | {told['p_value']:.2g} |"
        print(f"| {row['way']} | {100 * row['mean']:.2f} % | {100 * row['std']:.2f} | {apart}")


def accuracies(folder: Path, seeds: int, changes: list[str]) -> list[float]:
    """Return the test accuracy of the student of each seed."""
    length = ["distill.epochs=60", "distill.alpha=0.8"]
    overrides = [f"distill.seeds={seeds}", "distill.control=false", "bench.duration_s=0.1", *length, *changes]
    edgekd.run(resource_folder("recipes") / "digits.toml", folder, overrides=overrides)
    report = json.loads((folder / "report.json").read_bytes())
    return [round(score, 4) for score in report["seeds"]["student"]["test_top1"]]


if __name__ == "__main__":
    main()
