"""A run of perceptrons on noise that takes a second, for tests of what a run makes and reuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from listening import Heard
from PIL import Image

from edgekd import pipeline
from edgekd.benchmarking.conditions import Conditions
from edgekd.benchmarking.results import BenchResult, Device, Latency, ModelResult

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """
name = "tiny"
[data]
source = "image-folder"
path = "images"
colour = "gray"
[teacher]
model = "mlp-8"
epochs = 1
[student]
model = "mlp-4"
[distill]
epochs = 1
control = false
"""


TRAININGS = ["train the teacher", "distil the student"]


def reused(heard: Heard) -> set[str]:
    return {note.partition(":")[0] for note in heard.notes if note.endswith("is unchanged, reused")}


def write_recipe(folder: Path) -> Path:
    """Write 60 gray images of two classes and a recipe of perceptrons, and return the recipe."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / "images" / label).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / label / f"{number:02}.png")
    path = folder / "tiny.toml"
    path.write_text(RECIPE)
    return path


def distilled(recipe: Path, *overrides: str) -> Heard:
    heard = Heard()
    pipeline.distill_recipe(recipe, recipe.parent / "run", overrides=overrides, progress=heard)
    return heard


def fake_bench(models: list[Path], **_: object) -> BenchResult:
    """Stand for a measurement, which would take long and be tainted while other tests run."""
    latency = Latency.of([[1.0] * 60, [1.0] * 60])
    results = tuple(
        ModelResult(
            path=str(path), sha256="0", threads=1, inputs={}, repetitions=2, load_ms=1.0, first_run_ms=1.0,
            latency_ms=latency, block_p50_ms=(1.0, 1.0), warmed_up=True, memory_bytes={}, ratio_to_first=None,
        )
        for path in models
    )  # fmt: skip
    conditions = Conditions(
        verdict="valid", cpu_model="c", logical_cores=2, governor="g", load_average_before=None,
        others_busy_cores=None, onnxruntime="1",
    )  # fmt: skip
    return BenchResult(device=Device(name="local", target="t"), conditions=conditions, models=results)
