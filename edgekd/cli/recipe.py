"""`edgekd recipe`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from pathlib import Path


@click.group("recipe")
def command() -> None:
    """Make and check recipes."""


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from edgekd.cli import ui
    from edgekd.recipe import recipe_schema

    ui.say(json.dumps(recipe_schema(), indent=2))


@command.command("check")
@click.argument("recipe", type=options.FILE)
@options.overrides
def check(recipe: Path, overrides: tuple[str, ...]) -> None:
    """Say whether a recipe is sound: its settings, and that models, target, device and packages are there.

    Nothing is trained. Where the extra `train` is not installed, models are not looked at.
    """
    from edgekd.cli import ui
    from edgekd.errors import MissingExtraError
    from edgekd.preflight import check_recipe
    from edgekd.recipe_file import load_recipe

    settings = load_recipe(recipe, overrides)
    try:
        check_recipe(settings, ui.progress())
    except MissingExtraError as error:
        ui.remark(f"The models were not checked, and the recipe cannot run here: {error}")
    ui.say(f"{recipe}: good; {settings.teacher.model} -> {settings.student.model} on {settings.data.source}")


@command.command("init")
@click.argument("name", default="digits")
@click.option("-o", "output", type=options.FILE, metavar="FILE", help="[default: NAME.toml]")
def init(name: str, output: Path | None) -> None:
    """Write a recipe to start from: a copy of one that ships with edgekd."""
    from pathlib import Path

    from edgekd.artifact import write_bytes
    from edgekd.cli import ui
    from edgekd.errors import UsageError
    from edgekd.resources import resource_folder
    from edgekd.text import nearest

    known = {path.stem: path for path in sorted(resource_folder("recipes").glob("*.toml"))}
    if name not in known:
        raise UsageError(f"no recipe {name!r} ships with edgekd{nearest(name, known)}; there are: {', '.join(known)}")
    path = output or Path(f"{name}.toml")
    options.claim({"-o": path}, [])
    if path.exists():
        raise UsageError(f"{path} exists already; name another file with -o")
    write_bytes(path, known[name].read_bytes())
    ui.say(f"{path}: edit it, then: edgekd run {path}")
