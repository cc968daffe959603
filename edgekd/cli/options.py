"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgekd.data import Contract

FILE = click.Path(path_type=Path)

json_file = click.option("--json", "json_path", type=FILE, metavar="FILE", help="Write the figures here as JSON.")
overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting of the recipe, such as quantize.samples=64.",
)
run_folder = click.option(
    "-o", "output", type=FILE, metavar="DIR", help="The run's folder.  [default: runs/<recipe name>]"
)


class Share(click.FloatRange):
    """A number from 0 to 1. NaN, which compares with nothing, is none."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return it as a float."""
        number: float = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r} is not in the range 0<=x<=1.", param, ctx)
        return number


max_drop = click.option(
    "--max-drop",
    type=Share(),
    metavar="F",
    help="The gate, against the fp32 model: largest loss of top-1, or of agreement where there are no labels.",
)
contract = click.option(
    "--contract", type=FILE, metavar="FILE", help="JSON: how images become inputs, for a model that does not say."
)
labels = click.option(
    "--labels",
    default="folder",
    metavar="folder|prefix|CSV",
    show_default=True,
    help="Where the class of an image is from: its folder, the number before _ in its name, or a CSV file.",
)


def image_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--contract` and `--labels`."""
    return contract(labels(function))


def open_contract(path: Path | None) -> Contract | None:
    """Read `--contract`, if it was given."""
    from edgekd.data import read_contract

    return None if path is None else read_contract(path)


def write_result(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write `--json`, if it was given."""
    from edgekd.artifact import write_json

    if path is not None:
        write_json(path, content)
