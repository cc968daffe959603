"""Options that several verbs share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from edgekd.data import Contract
    from edgekd.progress import Progress


class FilePath(click.Path):
    """A path. An empty one, such as of an unset variable, is none: it would mean the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return it as a `Path`."""
        if value == "":
            self.fail("this name is empty", param, ctx)
        return super().convert(value, param, ctx)


class DataName(click.ParamType[str]):
    """Where data lie: a path, or a recipe and a split of it. Not empty, like `FilePath`."""

    name = "data"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it."""
        if not value:
            self.fail("this name is empty", param, ctx)
        return value


FILE = FilePath()
DATA = DataName()

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


def claim(places: Mapping[str, Path | None], read: Iterable[Path | str | None]) -> None:
    """Find out, before long work, whether results can be written without losing anything.

    Args:
        places: Where results go, by option; those not given are None.
        read: What the command reads, likewise.

    Raises:
        OutputError: a place cannot be written.
        UsageError: two results go to one place, or one would overwrite what is read.
    """
    from edgekd.artifact import is_stream, require_writable
    from edgekd.errors import UsageError

    taken = {path: "the command reads it" for path in read if path is not None}
    for option, path in places.items():
        if path is None:
            continue
        require_writable(path, option)
        if is_stream(path):
            continue
        for other, reason in taken.items():
            if _is_same(path, other):
                raise UsageError(f"{option} {path}: this file would be overwritten, but {reason}; name another one")
        taken[path] = f"{option} is written there"


def _is_same(path: Path, other: Path | str) -> bool:
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    try:
        return path.samefile(other)
    except OSError:  # one of them is not there
        return False


def show_and_write(show: Callable[[], None], path: Path | None, content: Mapping[str, Any]) -> None:
    """Show a result, and write it to `--json`, if that was given: a failure of one never costs the other."""
    from edgekd.artifact import write_json

    try:
        show()
    finally:
        if path is not None:
            write_json(path, content, "--json")


def tell(progress: Progress, note: str | None) -> None:
    """Pass on a remark, if there is one."""
    if note is not None:
        progress.note(note)
