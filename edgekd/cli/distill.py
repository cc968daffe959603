"""`edgekd distill`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence
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
@click.option(
    "--search",
    "searched",
    multiple=True,
    metavar="KEY=VALUE",
    help="Search for good settings as the recipe's [search] says, with one key of it changed, such as trials=20.",
)
@options.json_file
def command(
    recipe: Path,
    output: Path | None,
    overrides: tuple[str, ...],
    searched: tuple[str, ...],
    json_path: Path | None,
) -> None:
    """Train a recipe's teacher, control and student, and stop there.

    The same folder as `edgekd run` uses, so that run continues from here. In several processes: torchrun
    --nproc_per_node N -m edgekd distill RECIPE.

    With --search students are trained with other settings instead, and judged on the validation split; --json writes
    what was found.
    """
    if json_path is not None and not searched:
        raise click.UsageError("--json is for --search; the figures of a training are in the cards of its folder")
    if searched:
        _search(recipe, output, [*overrides, *_search_overrides(searched)], json_path)
        return
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


def _search_overrides(searched: Sequence[str]) -> list[str]:
    """Return the settings of `--search` as overrides of the recipe."""
    from edgekd.recipe_file import read_setting

    for text in searched:
        read_setting(text, "--search", "trials=20")
    return [f"search.{text}" for text in searched]


def _search(recipe: Path, output: Path | None, overrides: Sequence[str], json_path: Path | None) -> None:
    from edgekd.cli import run_tables, ui
    from edgekd.search.study import search_recipe

    options.claim({"--json": json_path}, [recipe])
    found = search_recipe(recipe, output, overrides=overrides, progress=ui.progress())
    options.show_and_write(
        lambda: run_tables.search_table(found.content, recipe, found.folder), json_path, found.content
    )
