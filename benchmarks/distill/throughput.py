"""How fast students train: edgekd beside a plain PyTorch loop and a peer, the teacher live or asked before.

    pip install -r benchmarks/distill/requirements.txt
    python benchmarks/distill/throughput.py

resnet32x4 teaches resnet8x4 on 32x32 images, batches of 64, two threads. Every block is a fresh process; the ways
take turns forwards and backwards, so that a drifting machine favours none. What is timed are whole steps after the
first ones, the reading and augmenting of images included. Writes results-throughput.json beside this file and prints
the tables of the README. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peer_torchdistill import train_with_torchdistill
from plain import train_plainly

import edgekd
from edgekd.artifact import library_versions, write_json
from edgekd.benchmarking.statistics import paired_ratio
from edgekd.data.splits import open_splits
from edgekd.data_settings import NpzData
from edgekd.distillation.engine import stored_answers
from edgekd.distillation.training import Augmentation
from edgekd.models import build
from edgekd.recipe import DistillSettings
from edgekd.targets import detect_host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

HERE = Path(__file__).parent
TEACHER, STUDENT = "resnet32x4", "resnet8x4"
BATCH, CLASSES, THREADS = 64, 100, 2
WARM = 2  # steps before the clock starts
WAYS = ("plain", "torchdistill", "edgekd live", "plain stored", "edgekd stored")
AUGMENTATION = Augmentation(crop_padding=4, flip=True)


def networks() -> tuple[nn.Module, nn.Module]:
    """Return teacher and student; their weights are random, which changes no speed."""
    torch.manual_seed(0)
    teacher, student = (build(name, classes=CLASSES, shape=(3, 32, 32)) for name in (TEACHER, STUDENT))
    return teacher, student


def write_images(path: Path, count: int) -> None:
    """Write random images and labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    np.savez(path, input=images, labels=np.arange(count) % CLASSES)


class Clock:
    """A listener that notes when every unit was done."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.units: list[int] = []

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Clock]:  # noqa: ARG002
        """Start the clock."""
        self.times, self.units = [time.perf_counter()], [0]
        yield self

    def advance(self, units: int = 1, note: str | None = None) -> None:  # noqa: ARG002
        """Note the time."""
        self.times.append(time.perf_counter())
        self.units.append(units)

    def note(self, message: str) -> None:
        """Ignore a message."""

    def rate(self, skipped: int) -> float:
        """Return units a second, the first `skipped` reports aside."""
        return sum(self.units[skipped + 1 :]) / (self.times[-1] - self.times[skipped])


def settings(*, stored: bool) -> DistillSettings:
    """Return an epoch of KD, as `alpha` and `temperature` say by default."""
    chosen: dict[str, Any] = {"epochs": 1, "batch_size": BATCH, **({"cache": {"views": 1}} if stored else {})}
    return DistillSettings.model_validate_json(json.dumps(chosen))


def block(way: str, images: Path, answers: Path) -> float:
    """Train in one way, in this process; return samples a second, or for "fill" the teacher's answers a second."""
    torch.set_num_threads(THREADS)
    teacher, student = networks()
    if way == "torchdistill":
        return train_with_torchdistill(teacher, student, images, batch_size=BATCH, warm=WARM)
    if way.startswith("plain"):
        return train_plainly(teacher, student, images, batch_size=BATCH, warm=WARM, stored=way == "plain stored")
    # the smallest splits there can be: all but the few images of these are trained on
    splits = open_splits(NpzData(source="npz", path=images, test=2, validation=2, calibration=2), seed=0)
    clock = Clock()
    if way == "fill":
        stored_answers(teacher, splits.train, settings(stored=True), AUGMENTATION, answers, progress=clock)
        return clock.rate(0)
    edgekd.distill(
        student,
        teacher,
        splits.train,
        splits.validation,
        settings=settings(stored=way == "edgekd stored"),
        augmentation=AUGMENTATION,
        cache_folder=answers,
        progress=clock,
    )
    return BATCH * clock.rate(WARM)


def in_its_own_process(way: str, images: Path, answers: Path) -> float:
    """Run a block in a fresh process."""
    command = [sys.executable, str(HERE / "throughput.py"), "--block", way, str(images), str(answers)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rate = float(ran.stdout.splitlines()[-1])
    print(f"{way}: {rate:.1f} samples/s", flush=True)
    return rate


def measure(steps: int, rounds: int) -> dict[str, Any]:
    """Run all blocks."""
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        images, answers = Path(name) / "images.npz", Path(name) / "answers"
        count = (WARM + steps) * BATCH
        write_images(images, count + 6)
        fill = in_its_own_process("fill", images, answers)
        bytes_stored = sum(path.stat().st_size for path in answers.iterdir()) / count
        for number in range(2 * rounds):
            for way in WAYS if number % 2 == 0 else reversed(WAYS):
                rates[way].append(in_its_own_process(way, images, answers))
    return {"rates": rates, "fill": fill, "bytes": bytes_stored}


def summary(measured: dict[str, Any]) -> dict[str, Any]:
    """Return what the blocks say: speed against the plain loop, and when filling the answers has paid."""
    rates = measured["rates"]
    rows = []
    for way, found in rates.items():
        speed = paired_ratio(found, rates["plain"])
        rows.append(
            {
                "way": way,
                "samples_per_s": {
                    "median": round(statistics.median(found), 2),
                    "blocks": [round(r, 2) for r in found],
                },
                "speed_of_plain": {key: round(getattr(speed, key), 3) for key in ("median", "min", "max")},
            }
        )
    seconds = {way: 1 / statistics.median(found) for way, found in rates.items()}
    fill, live, stored = 1 / measured["fill"], seconds["edgekd live"], seconds["edgekd stored"]
    return {
        "rows": rows,
        "fill": {
            "samples_per_s": round(measured["fill"], 2),
            "epochs_of_plain": round(fill / seconds["plain"], 3),
            "bytes_per_sample": round(measured["bytes"], 1),
            "paid_after_epochs": round(fill / (live - stored), 3),
        },
        "epochs": [
            {"epochs": n, "live_s_per_1000": round(1000 * n * live, 1),
             "stored_s_per_1000": round(1000 * (fill + n * stored), 1)}
            for n in (1, 2, 5, 10)
        ],
    }  # fmt: skip


def main() -> None:
    """Measure, write the results and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of a block")
    parser.add_argument("--rounds", type=int, default=3, help="of blocks, forwards and backwards each")
    parser.add_argument("--results", type=Path, default=HERE / "results-throughput.json")
    parser.add_argument("--block", nargs=3, metavar=("WAY", "IMAGES", "ANSWERS"), help="what a fresh process runs")
    chosen = parser.parse_args()
    if chosen.block:
        way, images, answers = chosen.block
        print(block(way, Path(images), Path(answers)))
        return
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    content = {
        "schema": "edgekd.benchmark/1",
        "study": "distill-throughput",
        "teacher": TEACHER,
        "student": STUDENT,
        "batch": BATCH,
        "threads": THREADS,
        "steps": chosen.steps,
        "target": detect_host().name,
        "versions": library_versions(["numpy", "torch", "torchdistill"]),
        **summary(measure(chosen.steps, chosen.rounds)),
    }
    write_json(chosen.results, content)
    print_tables(content)


def print_tables(content: dict[str, Any]) -> None:
    """Print the README's tables."""
    print("| way | samples/s | speed / plain loop |")
    print("|---|---|---|")
    for row in content["rows"]:
        ratio = row["speed_of_plain"]
        spread = f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"
        print(f"| {row['way']} | {row['samples_per_s']['median']:.1f} | {spread} |")
    print("\n| epochs | live teacher, s per 1,000 images | stored answers, filling included |")
    print("|---|---|---|")
    for row in content["epochs"]:
        print(f"| {row['epochs']} | {row['live_s_per_1000']:.0f} | {row['stored_s_per_1000']:.0f} |")
    print(f"\nfilling: {json.dumps(content['fill'])}")


if __name__ == "__main__":
    main()
