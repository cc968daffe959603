"""Runs whose students never see the training samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tiny_run import distilled, reused, write_recipe

from edgekd.artifact import card_path
from edgekd.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from pathlib import Path

MADE = ("distill.data_free.samples=20", "distill.data_free.steps=2", "distill.batch_size=8")
TITLES = ["train the teacher", "make images from the teacher", "distil the student"]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = write_recipe(tmp_path)
    path.write_text(path.read_text().replace('"mlp-8"', '"resnet8x0.5"'))
    return path


def test_images_are_made_once_and_the_student_learns_from_them(recipe: Path) -> None:
    assert distilled(recipe, *MADE).titles == TITLES
    run = recipe.parent / "run"
    made = np.load(run / "made.npz")
    assert made["input"].shape == (20, 1, 8, 8)
    assert made["labels"].tolist() == [0, 1] * 10
    assert '"made.npz"' in card_path(run / "student.safetensors").read_text()
    again = distilled(recipe, *MADE)
    assert again.titles == []
    assert reused(again) == {"data", "teacher", "synthesise", "student"}
    assert distilled(recipe, *MADE, "distill.data_free.smoothness=1.0").titles == TITLES[1:]
    assert distilled(recipe).titles == TITLES[2:]


def test_further_methods_work_on_them(recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + '\n[[teachers]]\nmodel = "mlp-8"\nepochs = 1\n')
    heard = distilled(
        recipe,
        *MADE,
        "distill.weighting=confidence",
        "distill.peers=2",
        "distill.generations=2",
        "distill.cache.views=1",
    )
    assert heard.titles[-1] == "distil the student"


def test_what_images_cannot_be_made_from_is_refused_before_anything_is_trained(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="takes the place of training samples"):
        distilled(recipe, *MADE, "data.train=20", "data.transfer={source='rest'}")
    text = recipe.read_text()
    recipe.write_text(text.replace('"resnet8x0.5"', '"mlp-8"'))
    with pytest.raises(ModelError, match="no batch normalisation"):
        distilled(recipe, *MADE)
    (recipe.parent / "teacher.onnx").touch()
    recipe.write_text(text.replace('model = "resnet8x0.5"\nepochs = 1', 'onnx = "teacher.onnx"'))
    with pytest.raises(RecipeError, match=r"teacher.onnx gives no gradients"):
        distilled(recipe, *MADE)
    assert not list((recipe.parent / "run").glob("*.card.json"))
