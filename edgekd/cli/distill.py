"""`edgekd distill`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from pathlib import Path


def _list_kinds(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:  # noqa: ARG001
    """Print the kinds of terms, and end."""
    if not wanted or context.resilient_parsing:
        return
    from edgekd.cli import ui
    from edgekd.terms import KINDS, listed_settings

    for kind, term in KINDS.items():
        ui.say(f"{kind:<18}{', '.join(listed_settings(kind))}\n{'':<18}{term.__doc__}")
    ui.say("\nEvery kind has weight, weight_end, start and stop; what they mean stands in docs/recipe.md.")
    context.exit()


@click.command("distill")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_kinds,
    help="List the kinds of loss terms with their settings and papers, and end.",
)
@click.argument("recipe", type=options.FILE)
@options.run_folder
@options.overrides
def command(recipe: Path, output: Path | None, overrides: tuple[str, ...]) -> None:
    """Train a recipe's teacher, control and student, and stop there.

    The same folder as `edgekd run` uses, so that run continues from here. In several processes: torchrun
    --nproc_per_node N -m edgekd distill RECIPE.
    """
    from edgekd.cli import ui
    from edgekd.launch import launched
    from edgekd.pipeline import distill_recipe
    from edgekd.text import share

    student = distill_recipe(recipe, output, overrides=overrides, progress=ui.progress())
    if not launched().is_main:
        return
    ui.say(
        f"{student.path}: {student.metrics['parameters']:,} parameters, "
        f"validation accuracy {share(student.metrics['validation_top1'])}"
    )
