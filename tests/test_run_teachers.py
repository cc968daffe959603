"""Runs with several teachers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tiny_run import distilled, reused, write_recipe

from edgekd import pipeline
from edgekd.artifact import card_path
from edgekd.errors import RecipeError
from edgekd.recipe_file import load_recipe

if TYPE_CHECKING:
    from pathlib import Path


SECOND = """
[[teachers]]
model = "mlp-8"
epochs = 1
weight = 3.0
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = write_recipe(tmp_path)
    path.write_text(path.read_text() + SECOND)
    return path


def rewrite(recipe: Path, old: str, new: str) -> None:
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))


def test_every_teacher_is_trained_and_all_of_them_teach(recipe: Path) -> None:
    assert distilled(recipe).titles == ["train the teacher", "train the teacher-2", "distil the student"]
    run = recipe.parent / "run"
    assert (run / "teacher.safetensors").read_bytes() != (run / "teacher-2.safetensors").read_bytes()
    parents = card_path(run / "student.safetensors").read_text()
    assert '"teacher.safetensors"' in parents
    assert '"teacher-2.safetensors"' in parents
    assert reused(distilled(recipe)) == {"data", "teacher", "teacher-2", "student"}


@pytest.mark.parametrize("change", ["weight = 4.0", "weight = 3.0\n[distill.cache]\nviews = 1"])
def test_how_answers_are_weighed_trains_the_student_again_and_no_teacher(recipe: Path, change: str) -> None:
    distilled(recipe)
    rewrite(recipe, "weight = 3.0", change)
    titles = distilled(recipe).titles
    assert titles[-1] == "distil the student"
    assert not any(title.startswith("train") for title in titles)


@pytest.mark.parametrize("weighting", ["entropy", "confidence"])
def test_teachers_weighed_by_the_sample(recipe: Path, weighting: str) -> None:
    distilled(recipe)
    student = recipe.parent / "run" / "student.safetensors"
    before = student.read_bytes()
    assert distilled(recipe, f"distill.weighting={weighting}").titles == ["distil the student"]
    assert student.read_bytes() != before


def test_a_trained_teacher_beside_files_of_further_ones(recipe: Path) -> None:
    """An exported teacher and a checkpoint serve as the second and third."""
    pipeline.run(recipe, recipe.parent / "run", overrides=["bench.duration_s=0.02", "bench.repeats=2"])
    rewrite(
        recipe,
        SECOND,
        '\n[[teachers]]\nonnx = "run/teacher.onnx"\n[[teachers]]\nmodel = "mlp-8"\n'
        'checkpoint = "run/teacher-2.safetensors"\n',
    )
    assert pipeline.distill_recipe(recipe, recipe.parent / "other").path.exists()
    assert (recipe.parent / "other" / "teacher-2.onnx").exists()
    assert (recipe.parent / "other" / "teacher-3.safetensors").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("weight = 3.0", "wieght = 3.0", r"unknown key 'teachers.0.wieght'.*'weight'"),
        ("weight = 3.0", 'checkpoint = "none.pt"', "teachers.0.checkpoint = .*no such file"),
        ('[[teachers]]\nmodel = "mlp-8"', '[[teachers]]\nmodel = "mpl-8"', "teachers.0.model"),
        ("[teacher]\nmodel", "[teacher]\nweight = 0.0\nmodel", "no teacher has a weight above 0"),
    ],
)
def test_mistakes_name_the_teacher(recipe: Path, old: str, new: str, message: str) -> None:
    rewrite(recipe, old, new)
    if "above" in message:
        rewrite(recipe, "weight = 3.0", "weight = 0.0")
    with pytest.raises(RecipeError, match=message):
        distilled(recipe)


def test_transfer_data_has_no_labels_to_hold_teachers_against(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="transfer has none"):
        distilled(recipe, "distill.weighting=confidence", "data.train=20", "data.transfer={source='rest'}")
    assert (
        distilled(recipe, "distill.weighting=entropy", "data.train=20", "data.transfer={source='rest'}").titles[-1]
        == "distil the student"
    )


def test_one_teacher_has_no_others_to_be_weighed_against(recipe: Path) -> None:
    rewrite(recipe, SECOND, "")
    with pytest.raises(RecipeError, match=r'distill.weighting = "entropy" is for several teachers'):
        distilled(recipe, "distill.weighting=entropy")


def test_paths_of_further_teachers_are_relative_to_the_recipe(recipe: Path) -> None:
    (recipe.parent / "given.pt").write_bytes(b"")
    rewrite(recipe, "weight = 3.0", 'checkpoint = "given.pt"')
    assert load_recipe(recipe).teachers[0].checkpoint == recipe.parent.resolve() / "given.pt"
