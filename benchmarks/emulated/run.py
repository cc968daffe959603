"""8-bit files on emulated cores: what one file answers on CPUs whose kernels differ.

    pip install -r benchmarks/quantize/requirements.txt
    EDGEKD_DATA=FOLDER python benchmarks/emulated/run.py [--work WORK] [MODEL]...

FOLDER holds imagenet-sample.tar, banking77/ and cifar10-imagefolder.tar.gz; Debian's qemu-user-static has the
emulators. A result is written into results.json beside this file as soon as it is there, and not made again for the
same file: a run that was cut short goes on. Without --work, the models are made anew. With EDGEKD_QEMU_BUILD
(docs/devices.md) instructions are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

sys.path.append(str(Path(__file__).parents[1]))

from prepared import MODELS, prepare

import edgekd
from edgekd.artifact import library_versions, sha256_file, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from prepared import Prepared

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PLAIN, AVX2, ARM = "onnxruntime u8s8 per channel", "edgekd for x86-avx2", "edgekd for arm64-dotprod"
RUNS = (
    (PLAIN, "qemu-haswell"),
    (AVX2, "qemu-haswell"),
    (PLAIN, "qemu-cortex-a76"),
    (ARM, "qemu-cortex-a76"),
    (ARM, "qemu-cortex-a53"),
    (ARM, "qemu-haswell"),  # files on cores that they are not for
    (AVX2, "qemu-cortex-a76"),
)
SAMPLES = {
    "EfficientNet-Lite0": 125,
    "MiniLM": 200,
    "digits student": 359,
    "Fashion-MNIST student": 400,
    "CIFAR-10 student": 400,
}
COUNTED = "qemu-cortex-a76"


def evaluate(model: Prepared, file: Path, device: str, samples: int) -> dict[str, Any]:
    """Return a file's figures on a device; the fp32 file answers here."""
    start = time.monotonic()
    found = edgekd.evaluate(file, model.samples(samples), reference=model.fp32, device=device).to_json()
    figures = {key: found[key] for key in ("samples", "top1", "agreement", "sqnr_db")}
    return {**figures, "seconds": round(time.monotonic() - start)}


def count(file: Path) -> dict[str, Any]:
    """Return the instructions of one inference on an emulated core."""
    return {"instructions": edgekd.bench([file], device=COUNTED).models[0].instructions}


class Results:
    """The file of results: what it holds of the same file on the same core is kept."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []

    def fill(self, kind: str, name: str, tool: str, device: str, file: Path, make: Callable[[], Any]) -> None:
        """Make a row that is not there, and write it."""
        place = {"kind": kind, "model": name, "file": tool, "device": device}
        row = {**place, "sha256": sha256_file(file)}
        if any(row.items() <= known.items() for known in self.rows):
            return
        row |= make()
        self.rows = [known for known in self.rows if not place.items() <= known.items()] + [row]
        versions = library_versions(["numpy", "onnx", "onnxruntime"])
        content = {"schema": "edgekd.benchmark/1", "study": "emulated", "versions": versions, "rows": self.rows}
        write_json(RESULTS, content)
        print(json.dumps(row), file=sys.stderr, flush=True)


def main() -> None:
    """Do what is not done yet, and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"by default all: {', '.join(SAMPLES)}")
    parser.add_argument("--work", type=Path, help="keep the files here")
    settings = parser.parse_args()
    unknown = [name for name in settings.models if name not in MODELS]
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}")
    results = Results()
    with tempfile.TemporaryDirectory() as temporary:
        for name in settings.models or SAMPLES:
            run(name, settings.work or Path(temporary), results)
    print_tables(results.rows)


def run(name: str, work: Path, results: Results) -> None:
    """Do what is not done yet of one model."""
    model = prepare(name, work)
    for tool, device in RUNS:
        file = model.int8(tool)
        evaluated = partial(evaluate, model, file, device, SAMPLES[name])
        results.fill("evaluation", name, tool, device, file, evaluated)
    if os.environ.get("EDGEKD_QEMU_BUILD"):
        for tool in ("fp32", PLAIN, ARM):
            file = model.fp32 if tool == "fp32" else model.int8(tool)
            results.fill("instructions", name, tool, COUNTED, file, partial(count, file))


def print_tables(rows: list[dict[str, Any]]) -> None:
    """Print the README's tables."""
    print("| model | file | core | samples | top-1 | agreement | SQNR, dB |\n|---|---|---|---|---|---|---|")
    for row in rows:
        if row["kind"] == "evaluation":
            scored = row["top1"] is not None  # an encoder has no classes
            figures = [f"{row[key]:.3f}" if scored else "-" for key in ("top1", "agreement")]
            cells = [row["model"], row["file"], row["device"].removeprefix("qemu-"), str(row["samples"])]
            print(f"| {' | '.join([*cells, *figures])} | {row['sqnr_db']:.1f} |")
    print("\n| model | file | core | millions of instructions |\n|---|---|---|---|")
    for row in rows:
        if row["kind"] == "instructions":
            core = row["device"].removeprefix("qemu-")
            print(f"| {row['model']} | {row['file']} | {core} | {row['instructions'] / 1e6:.4g} |")


if __name__ == "__main__":
    main()
