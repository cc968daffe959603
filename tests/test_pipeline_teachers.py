"""A run's teacher: an ONNX file, stored answers, taps and terms from the recipe."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from listening import Heard
from PIL import Image

from edgekd import pipeline
from edgekd.distillation.cache import OtherAnswersError
from edgekd.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


RECIPE = """
name = "tiny"
[data]
source = "image-folder"
path = "images"
[teacher]
onnx = "teacher.onnx"
contract = "teacher.json"
[student]
model = "resnet8x0.25"
[distill]
epochs = 1
control = false
terms = [{kind = "kd"}, {kind = "sp", weight = 10.0}]
taps.pairs = [["layer1", "r2"]]
"""
OWN = {
    "layout": "NCHW",
    "size": [8, 8],
    "colour": "RGB",
    "mean": [0, 0, 0],
    "std": [1, 1, 1],
    "labels": ["dog", "cat"],
}


@pytest.fixture
def recipe(tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto]) -> Path:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number:02}.png")
    onnx.save(make_conv_net(classes=2), tmp_path / "teacher.onnx")
    (tmp_path / "teacher.json").write_text(json.dumps(OWN))
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return tmp_path / "tiny.toml"


def distilled(recipe: Path, *overrides: str, folder: str = "run") -> list[str]:
    heard = Heard()
    pipeline.distill_recipe(recipe, recipe.parent / folder, overrides=overrides, progress=heard)
    return heard.said


def test_an_onnx_teacher_goes_the_whole_way(recipe: Path) -> None:
    report = pipeline.run(recipe, recipe.parent / "run", overrides=["bench.duration_s=0.02", "bench.repeats=2"])
    teacher, fp32, _ = report.models
    assert (teacher["role"], teacher["path"], teacher["agreement_teacher"]) == ("teacher", "teacher.onnx", 1.0)
    assert teacher["parameters"] == 8 * 27 + 8 + 64 * 9 + 8 + 16 + 2
    assert fp32["parameters"] > 0
    again = distilled(recipe)
    assert [line for line in again if "reused" not in line] == []


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        ("distill.temperature_end=nan", None),
        ("distill.terms=[{kind = 'dkd'}]", True),
        ("distill.workers=1", False),
    ],
)
def test_what_a_student_learns_from_decides_its_key(recipe: Path, change: str, trained: bool | None) -> None:
    distilled(recipe)
    if trained is None:
        with pytest.raises(UsageError):
            distilled(recipe, change)
        return
    assert ("distil the student" in distilled(recipe, change)) is trained


def test_another_contract_or_file_makes_another_teacher(
    recipe: Path, make_conv_net: Callable[..., onnx.ModelProto]
) -> None:
    distilled(recipe)
    (recipe.parent / "teacher.json").write_text(json.dumps({**OWN, "std": [1, 2, 1]}))
    assert "distil the student" in distilled(recipe)
    onnx.save(make_conv_net(classes=2, seed=5), recipe.parent / "teacher.onnx")
    assert "distil the student" in distilled(recipe)


CACHE = ("distill.cache.views=2", "data.flip=true")


def test_stored_answers_serve_every_run_that_asks_the_same(recipe: Path) -> None:
    first = distilled(recipe, *CACHE)
    assert "ask the teacher" in first
    other = distilled(recipe, *CACHE, "seed=0", "distill.terms=[{kind = 'lskd'}, {kind = 'hint'}]")
    assert "ask the teacher" not in other
    assert "distil the student" in other
    assert any(line.endswith("complete; the teacher does not run") for line in other)
    replaced = distilled(recipe, "distill.cache.views=3", "data.flip=true")
    assert "ask the teacher" in replaced


def test_answers_in_a_named_folder_are_shared_and_never_replaced(recipe: Path) -> None:
    shared = (*CACHE, "distill.cache.path=shared", "distill.epochs=2")
    distilled(recipe, *shared)
    assert "ask the teacher" not in distilled(recipe, *shared, folder="other")
    with pytest.raises(OtherAnswersError, match=r"shared: .*\(views differ\)"):
        distilled(recipe, *shared, "distill.cache.views=3", folder="other")


@pytest.fixture(autouse=True)
def here(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ("distill.taps.pairs=[['layer9', 'r2']]", UsageError, "no module 'layer9'"),
        ("distill.taps.pairs=[['layer1', 'r3']]", UsageError, "no tensor 'r3'"),
        ("distill.terms=[{kind = 'at', pairs = [1]}]", UsageError, "asks for pair 1"),
        ("data.size=[9, 9]", ModelError, "takes 8x8 pixels with 3 channels, the data has 9x9"),
    ],
)
def test_what_does_not_fit_is_found_before_anything_is_made(
    recipe: Path, change: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        distilled(recipe, change)
    assert not list((recipe.parent / "run").glob("*.card.json"))


def test_a_torch_teachers_taps_are_checked_before_it_is_trained(recipe: Path) -> None:
    text = recipe.read_text().replace('onnx = "teacher.onnx"\ncontract = "teacher.json"', 'model = "resnet8x0.5"')
    recipe.write_text(text)
    said: Any = None
    with pytest.raises(UsageError, match="no module 'r2'"):
        said = distilled(recipe)
    assert said is None
    assert "train the teacher" in distilled(recipe, "distill.taps.pairs=[['layer1', 'layer1']]", "teacher.epochs=1")
