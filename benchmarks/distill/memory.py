"""What a training takes in memory and on disk as the data set grows: peaks of fresh processes.

    python benchmarks/distill/memory.py

resnet20 teaches resnet8 on 32x32 images for an epoch, by KD and a hint, from answers that the same process stores
first. The images are uint8 in an .npz file. Writes results-memory.json beside this file and prints the table of the
README.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from throughput import AUGMENTATION, CLASSES, write_images

import edgekd
from edgekd.artifact import library_versions, write_json
from edgekd.data.splits import open_splits
from edgekd.data_settings import NpzData
from edgekd.models import build
from edgekd.recipe import DistillSettings

HERE = Path(__file__).parent
TEACHER, STUDENT = "resnet20", "resnet8"
SETTINGS: dict[str, Any] = {
    "epochs": 1,
    "cache": {"views": 1},
    "terms": [{"kind": "kd"}, {"kind": "hint"}],
    "taps": {"pairs": [["layer3", "layer3"]]},
}


def peak_bytes() -> int:
    """Return the highest resident memory of this process; `ru_maxrss` would hold its parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def train(images: Path, answers: Path) -> int:
    """Train on all images; return the peak."""
    splits = open_splits(NpzData(source="npz", path=images, test=2, validation=100, calibration=2), seed=0)
    torch.manual_seed(0)
    teacher, student = (build(name, classes=CLASSES, shape=(3, 32, 32)) for name in (TEACHER, STUDENT))
    edgekd.distill(
        student,
        teacher,
        splits.train,
        splits.validation,
        settings=DistillSettings.model_validate_json(json.dumps(SETTINGS)),
        augmentation=AUGMENTATION,
        cache_folder=answers,
    )
    return peak_bytes()


def measure(count: int) -> dict[str, int | float]:
    """Train on so many images in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        images, answers = Path(name) / "images.npz", Path(name) / "answers"
        write_images(images, count + 104)
        command = [sys.executable, str(HERE / "memory.py"), "--block", str(images), str(answers)]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        stored = sum(path.stat().st_size for path in answers.iterdir())
        return {
            "images": count,
            "image_bytes": images.stat().st_size,
            "stored_bytes": stored,
            "stored_bytes_per_sample": round(stored / count, 1),
            "peak_bytes": int(ran.stdout.splitlines()[-1]),
        }


def main() -> None:
    """Measure, write the results and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 10_000, 20_000])
    parser.add_argument("--results", type=Path, default=HERE / "results-memory.json")
    parser.add_argument("--block", nargs=2, metavar=("IMAGES", "ANSWERS"), help="what a fresh process runs")
    chosen = parser.parse_args()
    if chosen.block:
        print(train(*map(Path, chosen.block)))
        return
    rows = []
    for size in chosen.sizes:
        rows.append(measure(size))
        print(json.dumps(rows[-1]), flush=True)
    write_json(
        chosen.results,
        {
            "schema": "edgekd.benchmark/1",
            "study": "distill-memory",
            "teacher": TEACHER,
            "student": STUDENT,
            "settings": SETTINGS,
            "versions": library_versions(["numpy", "torch"]),
            "rows": rows,
        },
    )
    print("| images | image file, MB | stored answers, MB | bytes a sample | peak memory, MB |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['images']:,} | {row['image_bytes'] / 1e6:.0f} | {row['stored_bytes'] / 1e6:.0f} | "
            f"{row['stored_bytes_per_sample']:,.0f} | {row['peak_bytes'] / 1e6:.0f} |"
        )


if __name__ == "__main__":
    main()
