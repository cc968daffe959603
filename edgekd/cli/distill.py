"""`edgekd distill`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from pathlib import Path


@click.command("distill")
@click.argument("recipe", type=options.FILE)
@options.run_folder
@options.overrides
def command(recipe: Path, output: Path | None, overrides: tuple[str, ...]) -> None:
    """Train a recipe's teacher, control and student, and stop there.

    The same folder as `edgekd run` uses, so that run continues from here.
    """
    from edgekd.cli import ui
    from edgekd.pipeline import distill_recipe
    from edgekd.text import share

    student = distill_recipe(recipe, output, overrides=overrides, progress=ui.progress())
    ui.say(
        f"{student.path}: {student.metrics['parameters']:,} parameters, "
        f"validation accuracy {share(student.metrics['validation_top1'])}"
    )
