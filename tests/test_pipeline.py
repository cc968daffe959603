"""The order of the stages within one process: what is reused, what is made again, what is refused at once."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from listening import Heard
from PIL import Image
from tiny_run import TRAININGS, distilled, fake_bench, reused, write_recipe

from edgekd import pipeline
from edgekd.artifact import card_path
from edgekd.benchmarking.results import BenchResult
from edgekd.distillation import running
from edgekd.drivers import host
from edgekd.errors import EdgekdError, MissingExtraError, ModelError, RecipeError
from edgekd.preflight import check_recipe
from edgekd.recipe_file import load_recipe

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


def test_nothing_is_trained_again_while_nothing_changed(recipe: Path) -> None:
    assert distilled(recipe).titles == TRAININGS
    again = distilled(recipe, "data.cache_mb=1", "distill.checkpoint_s=1.0")
    assert again.titles == []
    assert reused(again) == {"data", "teacher", "student"}


@pytest.mark.parametrize("change", ["flip", "size", "labels", "pixels", "mean", "seed"])
def test_whatever_changes_what_is_learnt_trains_again(recipe: Path, change: str) -> None:
    distilled(recipe)
    images = recipe.parent / "images"
    overrides = {
        "flip": ["data.flip=true"],
        "size": ["data.size=[6, 8]"],
        "mean": ["data.mean=[0.4]"],
        "seed": ["seed=1"],
    }
    if change == "labels":
        (images / "dog").rename(images / "wolf")
    elif change == "pixels":
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(images / "cat" / "00.png")
    assert distilled(recipe, *overrides.get(change, [])).titles == TRAININGS


def test_label_smoothing_has_no_say_in_what_a_taught_student_learns(recipe: Path) -> None:
    distilled(recipe)
    assert distilled(recipe, "distill.label_smoothing=0.1").titles == []
    assert distilled(recipe, "teacher.label_smoothing=0.1").titles == TRAININGS


@pytest.mark.parametrize("damage", [{"extra": []}, {"metrics": {}}])
def test_a_damaged_card_is_made_again(recipe: Path, damage: dict[str, Any]) -> None:
    distilled(recipe)
    path = card_path(recipe.parent / "run" / "teacher.safetensors")
    whole = path.read_bytes()
    path.write_text(json.dumps({**json.loads(whole), **damage}))
    heard = distilled(recipe)
    assert heard.titles == ["train the teacher"]
    assert reused(heard) == {"data", "student"}
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bench.device=lokal", r"bench\.device: unknown device 'lokal' \(perhaps you meant 'local'\?\)"),
        ("quantize.target=x86-vnn", r"quantize\.target: unknown target 'x86-vnn' \(perhaps you meant 'x86-vnni'\?\)"),
        ("student.model=resnt8", r"student\.model: no model is named 'resnt8'"),
        ("student.model=nobody:net", r"student\.model: nobody:net: there is no module 'nobody'"),
        ("distill.precision=fp16", r"distill\.precision: fp16 needs a GPU, and there is none here"),
        ("teacher.precision=fp16", r"teacher\.precision: fp16 needs a GPU"),
        ("student.model=mlp-0", r"student\.model: .*from 1 to 65536"),
        ("student.arguments={depth = 2}", r"student\.model: mlp-4: a built-in model takes no arguments"),
    ],
)
def test_what_is_needed_later_is_checked_before_anything_is_trained(
    recipe: Path, override: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "best_device", lambda: torch.device("cpu"))
    heard = Heard()
    with pytest.raises(RecipeError, match=message):
        pipeline.run(recipe, recipe.parent / "run", overrides=[override], progress=heard)
    assert heard.titles == []
    with pytest.raises(RecipeError, match=message):
        check_recipe(load_recipe(recipe, ["data={source = 'digits'}", override]))


def test_a_missing_package_is_found_before_anything_is_trained(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match="onnxscript"):
        check_recipe(load_recipe(recipe))
    heard = Heard()
    with pytest.raises(MissingExtraError, match="onnxscript"):
        pipeline.run(recipe, recipe.parent / "run", progress=heard)
    assert heard.titles == []


def test_a_student_larger_than_its_teacher_is_remarked_on(recipe: Path) -> None:
    assert not [note for note in distilled(recipe).notes if "larger than its teacher" in note]
    (note,) = [note for note in distilled(recipe, "student.model=mlp-16").notes if "larger" in note]
    assert re.search(r"the student \(1,0\d\d parameters\) is larger than its teacher \(538\)", note)


def test_an_own_model_lies_beside_the_recipe_and_its_failure_names_it(recipe: Path) -> None:
    (recipe.parent / "beside_tiny.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, fault=None):\n"
        "        super().__init__()\n"
        "        self.fault, self.fc = fault, nn.Linear(64, 2)\n"
        "    def forward(self, x):\n"
        "        if self.training and self.fault:\n"
        "            raise LookupError(self.fault)\n"
        "        return self.fc(x.flatten(1))\n"
    )
    assert distilled(recipe, "student.model=beside_tiny:Net").titles == TRAININGS
    with pytest.raises(
        ModelError, match=r"^student \(beside_tiny:Net\): the network cannot .*: LookupError: broken$"
    ):
        distilled(recipe, "student.model=beside_tiny:Net", "student.arguments.fault=broken")


def test_evaluation_and_bench_are_reused_on_the_same_machine_only(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[BenchResult] = []
    verdict = "valid"

    def bench(models: list[Path], **values: object) -> BenchResult:
        found = fake_bench(models, **values)
        measured.append(replace(found, conditions=replace(found.conditions, verdict=verdict)))
        return measured[-1]

    monkeypatch.setattr("edgekd.benchmarking.bench.bench", bench)
    path = recipe.parent / "run" / "bench.json"

    def again() -> set[str]:
        heard = Heard()
        pipeline.run(recipe, recipe.parent / "run", progress=heard)
        return {"evaluate", "bench"} - reused(heard)

    assert again() == {"evaluate", "bench"}
    assert again() == set()
    for content in ("{", "[]", json.dumps({**json.loads(path.read_bytes()), "models": []})):
        path.write_text(content)
        assert again() == {"bench"}, content
    verdict = "tainted: busy"
    path.unlink()
    assert again() == {"bench"}
    verdict = "valid"
    assert again() == {"bench"}, "a tainted measurement does not count"
    assert again() == set()

    facts = host.read_facts()
    monkeypatch.setattr("edgekd.drivers.local.read_facts", lambda: replace(facts, cpu_model="another"))
    assert again() == {"bench"}
    other = replace(facts, target="arm64" if facts.target != "arm64" else "x86-avx2")
    monkeypatch.setattr(host, "read_facts", lambda: other)
    assert again() == {"evaluate"}
    assert len(measured) == 7


def test_every_error_of_a_run_is_one_of_edgekds_own(recipe: Path) -> None:
    """A few ways to ask for the impossible in one place: none may look like a fault of edgekd."""
    for override in (
        "distill.temperature=1e300",
        "student.arguments={a = nan}",
        "student.arguments={a = 2020-01-01}",
    ):
        with pytest.raises(EdgekdError):
            pipeline.run(recipe, recipe.parent / "run", overrides=[override])
