"""What data without labels brings: digits as the test has them, the same inverted, noise, and pieces of photographs.

A student learns from 100 labelled digits and a teacher that knows 600; the transfer samples are 478 that neither has
seen, or as many of another kind. Every student takes about as many steps, with several seeds each. results.json and
the table in README.md are written by this script:

    python benchmarks/transfer/run.py
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images

from edgekd.artifact import indented_json, library_versions
from edgekd.data import ArraySamples
from edgekd.data.digits import open_digits
from edgekd.distillation.engine import distill
from edgekd.distillation.objective import LabelObjective
from edgekd.distillation.running import accuracy
from edgekd.distillation.training import Augmentation, train_network
from edgekd.models import build
from edgekd.recipe import DistillSettings, TrainingSettings
from edgekd.seeds import gain
from edgekd.shift import confidence_shift

HERE = Path(__file__).parent
LABELLED, TEACHERS, TRANSFER, VALIDATION = 100, 600, 478, 180
BATCH, STEPS = 64, 600
AUGMENTATION = Augmentation(crop_padding=1)
TEACHER = TrainingSettings(epochs=60, batch_size=BATCH)
EXPLAINED = {
    "none": "no transfer data",
    "digits": "digits like those of the test, unlabelled",
    "inverted": "the same digits, black for white",
    "photographs": "pieces of two photographs",
    "noise": "independent random pixels",
}

Pixels = NDArray[np.uint8]


def photographs(count: int, rng: np.random.Generator) -> Pixels:
    """Return 8x8 pieces of the two photographs that scikit-learn ships, at a quarter of their size."""
    grey = [image.mean(axis=2)[::4, ::4].astype(np.uint8) for image in load_sample_images().images]
    pieces = []
    for number in range(count):
        image = grey[number % len(grey)]
        top, left = (int(rng.integers(0, extent - 8)) for extent in image.shape)
        pieces.append(image[top : top + 8, left : left + 8, None])
    return np.stack(pieces)


def normalised(pixels: Pixels) -> NDArray[np.float32]:
    """Return (N, 1, 8, 8) with the mean and deviation of the digits."""
    return ((pixels.astype(np.float32).transpose(0, 3, 1, 2) / 255 - 0.305) / 0.376).astype(np.float32)


def network(name: str, seed: int) -> torch.nn.Module:
    """Return a new network for the digits."""
    torch.manual_seed(seed)
    return build(name, classes=10, shape=(1, 8, 8))


def outputs(module: torch.nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a network's logits."""
    with torch.no_grad():
        found: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
    return found


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| transfer data | test accuracy | against none | the teacher's largest probability | KS distance | warned |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in results["conditions"].items():
        mean, spread = 100 * found["mean"], 100 * found["std"]
        won, shift = found["gain"], found["confidence"]
        moved = "" if won is None else f"{100 * won['difference']:+.1f} points, p = {won['p_value']:.1g}"
        told = "| |"
        if shift is not None:
            warned = "yes" if shift["shift"] else "no"
            told = f"{shift['transfer']['max_probability']:.2f} | {shift['ks_distance']:.2f} | {warned}"
        lines.append(f"| {EXPLAINED[name]} | {mean:.1f} % ± {spread:.1f} | {moved} | {told} |")
    return "\n".join(lines)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    rng = np.random.default_rng(0)
    source = open_digits()
    assert source.labels is not None
    order = rng.permutation(len(source))
    pixels, labels = source.pixels(order), source.labels[order]
    first, second, third = TEACHERS, TEACHERS + TRANSFER, TEACHERS + TRANSFER + VALIDATION
    images = normalised(pixels)

    def part(start: int, stop: int | None) -> dict[str, NDArray[Any]]:
        return {"input": images[start:stop], "labels": labels[start:stop]}

    train, validation = part(0, LABELLED), part(second, third)
    test = ArraySamples(part(third, None), name="test")
    unseen = pixels[first:second]
    transfers: dict[str, Pixels | None] = {
        "none": None,
        "digits": unseen,
        "inverted": 255 - unseen,
        "photographs": photographs(TRANSFER, rng),
        "noise": rng.integers(0, 256, unseen.shape, dtype=np.uint8),
    }
    teacher = train_network(
        network("resnet20", 0), part(0, first), validation, LabelObjective(), settings=TEACHER,
        augmentation=AUGMENTATION, seed=0,
    ).module  # fmt: skip
    on_test = outputs(teacher, images[third:])

    conditions: dict[str, Any] = {}
    for name, kind in transfers.items():
        others = None if kind is None else {"input": normalised(kind)}
        samples = LABELLED + (0 if kind is None else TRANSFER)
        per_epoch = samples // BATCH + (samples % BATCH >= 2)
        settings = DistillSettings(epochs=STEPS // per_epoch, batch_size=BATCH, temperature=4.0, alpha=0.8)
        scores = []
        for seed in range(seeds):
            student = distill(
                network("resnet8x0.5", seed), teacher, train, validation, transfer=others, settings=settings,
                augmentation=AUGMENTATION, seed=seed,
            ).module  # fmt: skip
            scores.append(round(accuracy(student, test), 6))
            print(f"{name}, seed {seed}: {scores[-1]:.4f}", flush=True)
        conditions[name] = {
            "test_top1": scores,
            "mean": float(np.mean(scores)),
            "std": float(np.std(scores, ddof=1)),
            "gain": gain(scores, conditions["none"]["test_top1"]) if conditions else None,
            "confidence": None if others is None else confidence_shift(outputs(teacher, others["input"]), on_test),
        }
    results = {
        "teacher_top1": round(accuracy(teacher, test), 6),
        "test_samples": len(test),
        "labelled": LABELLED,
        "transfer": TRANSFER,
        "steps": STEPS,
        "conditions": conditions,
        "versions": library_versions(("numpy", "torch", "scikit-learn", "scipy")),
    }
    (HERE / "results.json").write_bytes(indented_json(results))
    page = HERE / "README.md"
    place = re.compile(r"(?<=<!-- results -->\n).*?(?=\n<!-- end -->)", re.DOTALL)
    page.write_text(place.sub(lambda _: table(results), page.read_text()))
    print(json.dumps({name: found["mean"] for name, found in conditions.items()}, indent=1))


if __name__ == "__main__":
    main()
