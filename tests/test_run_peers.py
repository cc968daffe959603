"""Runs whose students learn from each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiny_run import distilled, write_recipe

from edgekd.artifact import card_path

if TYPE_CHECKING:
    from pathlib import Path


def test_peers_train_together_and_one_is_kept(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    heard = distilled(recipe, "distill.peers=3")
    assert heard.titles == ["train the teacher", "distil the student"]
    student = tmp_path / "run" / "student.safetensors"
    assert '"peers": 3' in card_path(student).read_text()
    first = student.read_bytes()
    student.unlink()
    distilled(recipe, "distill.peers=3")
    assert student.read_bytes() == first
    assert distilled(recipe, "distill.peers=2").titles == ["distil the student"]
