"""Transfer samples in a run: how the teacher takes them, what the report warns of, and what is made again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from listening import Heard
from PIL import Image
from tiny_run import TRAININGS, distilled, fake_bench, reused, write_recipe

from edgekd import pipeline
from edgekd.cli import run_tables
from edgekd.errors import ModelError
from edgekd.metrics import confidences
from edgekd.reporting.page import report
from edgekd.shift import confidence_shift
from edgekd.text import transfer_sentences

DOCUMENT = Path(__file__).parents[1] / "docs" / "distillation.md"


def logits(samples: int, sharpness: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sharpness, (samples, 10))


def test_confidence_equals_the_naive_form() -> None:
    values = logits(20, 3.0, 0)
    powers = np.exp(values)
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    largest, entropy = confidences(values.astype(np.float32))
    np.testing.assert_allclose(largest, probabilities.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(entropy, -(probabilities * np.log(probabilities)).sum(axis=1), rtol=1e-5)
    sure, none = confidences(np.array([[1e4, 0.0], [3.0, 3.0]]))
    np.testing.assert_allclose(sure, [1, 0.5])
    np.testing.assert_allclose(none, [0, np.log(2)], atol=1e-12)
    with pytest.raises(ModelError):
        confidences(np.array([[np.nan, 0.0]]))


def test_the_distance_equals_the_naive_form() -> None:
    transfer, test = logits(60, 1.0, 0), logits(40, 2.0, 1)
    first, second = (confidences(values)[0] for values in (transfer, test))
    steps = np.concatenate([first, second])
    apart = [abs(np.mean(first <= step) - np.mean(second <= step)) for step in steps]
    found = confidence_shift(transfer, test)
    assert found["ks_distance"] == pytest.approx(max(apart), rel=1e-5)
    assert found["test"] == {
        "samples": 40,
        "max_probability": pytest.approx(second.mean(), rel=1e-5),
        "entropy": pytest.approx(confidences(test)[1].mean(), rel=1e-5),
    }


@pytest.mark.parametrize(
    ("samples", "sharpness", "shift"),
    [(400, 3.0, False), (400, 2.9, False), (400, 1.0, True), (4, 1.0, False)],
    ids=["alike", "small effect", "shifted", "too few to tell"],
)
def test_a_shift_is_large_and_no_chance(samples: int, sharpness: float, shift: bool) -> None:
    found = confidence_shift(logits(samples, sharpness, 1), logits(samples, 3.0, 2))
    assert found["shift"] is shift
    sentences = transfer_sentences({"transfer": {"samples": samples, "same_as_test": 0, **found}})
    assert len(sentences) == 1 + shift


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "more").mkdir()
    rng = np.random.default_rng(1)
    for number in range(20):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "more" / f"{number}.png")
    return write_recipe(tmp_path)


MORE = "data.transfer={source = 'image-folder', path = 'more'}"


def test_the_student_alone_depends_on_them(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    assert distilled(recipe, MORE).titles == TRAININGS
    assert distilled(recipe, MORE, "data.transfer.cache_mb=0").titles == []
    assert distilled(recipe, MORE, "data.transfer.samples=10").titles == ["distil the student"]
    assert distilled(recipe).titles == ["distil the student"]
    distilled(recipe, MORE)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(recipe.parent / "more" / "0.png")
    assert distilled(recipe, MORE).titles == ["distil the student"]


def test_a_run_tells_how_the_teacher_takes_them(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(recipe.parent)
    monkeypatch.setattr("edgekd.benchmarking.bench.bench", fake_bench)
    folder = recipe.parent / "run"
    content = pipeline.run(recipe, folder, overrides=[MORE]).content["transfer"]
    assert content["samples"] == content["transfer"]["samples"] == 20
    assert content["test"]["samples"] == 12
    assert content["same_as_test"] == 0
    listed = re.findall(r"^\| `([\w.*]+)`", DOCUMENT.read_text(), re.MULTILINE)
    assert {*content, *(f"transfer.{key}" for key in content["transfer"])} - {"test", "transfer"} <= set(listed)
    heard = Heard()
    found = pipeline.run(recipe, folder, overrides=[MORE], progress=heard)
    assert "transfer" in reused(heard)

    run_tables.report_table(found.content)
    table, page = capsys.readouterr().out, report(folder, folder / "page.html").read_text()
    for told in (table, page):
        assert "Of a transfer sample the teacher is" in told
    assert pipeline.run(recipe, folder).content["transfer"] is None


def test_transfer_samples_of_the_test_split_are_counted(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder once more: all 12 test samples are among the 60, one of them twice."""
    monkeypatch.chdir(recipe.parent)
    monkeypatch.setattr("edgekd.benchmarking.bench.bench", fake_bench)
    source = {"source": "image-folder", "path": "images"}
    override = "data.transfer={" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in source.items()) + "}"
    found: dict[str, Any] = dict(pipeline.run(recipe, recipe.parent / "run", overrides=[override]).content)
    assert found["transfer"]["same_as_test"] == 12
    (warning,) = [words for words in transfer_sentences(found) if "occur in the test split" in words]
    assert warning.startswith("WARNING: 12 transfer samples of 60 occur")
