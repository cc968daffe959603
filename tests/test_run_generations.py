"""Runs in which students teach students."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tiny_run import distilled, reused, write_recipe

from edgekd.artifact import card_path
from edgekd.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


def test_each_generation_is_taught_by_the_one_before(recipe: Path) -> None:
    distilled(recipe)
    run = recipe.parent / "run"
    alone = (run / "student.safetensors").read_bytes()
    heard = distilled(recipe, "distill.generations=3")
    assert heard.titles == ["distil generation 2 of 3", "distil the student"]  # the first was there
    generations = [(run / "generations" / f"student-0-{number}.safetensors").read_bytes() for number in (1, 2)]
    assert generations[0] == alone
    assert len({*generations, (run / "student.safetensors").read_bytes()}) == 3
    assert '"teacher.safetensors"' in card_path(run / "generations" / "student-0-1.safetensors").read_text()
    last = card_path(run / "student.safetensors").read_text()
    assert '"student-0-2.safetensors"' in last
    assert '"teacher.safetensors"' not in last
    again = distilled(recipe, "distill.generations=3")
    assert again.titles == []
    assert reused(again) == {"data", "teacher", "student"}


def test_generations_of_several_seeds_are_told_apart(recipe: Path) -> None:
    heard = distilled(recipe, "distill.generations=2", "distill.seeds=2", "seed=5")
    assert [title for title in heard.titles if "distil" in title] == [
        "distil generation 1 of 2, seed 5", "distil the student, seed 5",
        "distil generation 1 of 2, seed 6", "distil the student, seed 6",
    ]  # fmt: skip
    made = {path.name for path in (recipe.parent / "run" / "generations").glob("*.safetensors")}
    assert made == {"student-5-1.safetensors", "student-6-1.safetensors"}


def test_what_a_killed_run_left_is_cleared_in_every_folder_of_it(recipe: Path) -> None:
    overrides = ("distill.generations=2", "distill.seeds=2", "distill.cache.views=1")
    distilled(recipe, *overrides)
    folders = {path.parent for path in (recipe.parent / "run").rglob("*")}
    assert {folder.name for folder in folders} == {"run", "answers", "generations", "seeds"}
    leftovers = [folder / f".partial-{'0' * 32}" for folder in folders]
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    distilled(recipe, *overrides)
    assert not any(leftover.exists() for leftover in leftovers)


def test_a_later_generation_compares_a_place_with_itself(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace('"mlp-8"', '"resnet8x0.5"').replace('"mlp-4"', '"resnet8x0.25"'))
    heard = distilled(
        recipe,
        "distill.generations=2",
        "distill.terms=[{kind='kd'}, {kind='hint'}, {kind='deep-supervision', places=['layer1']}]",
        "distill.taps.pairs=[['layer2', 'layer3']]",
        "distill.cache.views=1",
    )
    assert heard.titles[-1] == "distil the student"


def test_stored_answers_in_a_named_folder_are_of_one_teacher(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="each of several generations has its own"):
        distilled(recipe, "distill.generations=2", "distill.cache.path=shared")
