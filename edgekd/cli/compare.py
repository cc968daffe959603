"""`edgekd compare`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from pathlib import Path


class Growth(click.ParamType[float]):
    """A share such as `5%` or `0.05`."""

    name = "share"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return it as a number: 0.05 for `5%`."""
        match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,9})?)(%?)", str(value))
        if match is None:
            self.fail(f"{value!r}: expected a share such as 5% or 0.05", param, ctx)
        return float(match[1]) / (100 if match[2] else 1)


@click.command("compare")
@click.argument("base", type=options.FILE, metavar="BASE.json")
@click.argument("new", type=options.FILE, metavar="NEW.json")
@click.option(
    "--max-regression",
    type=Growth(),
    default="5%",
    show_default=True,
    metavar="5%",
    help="The gate: the largest growth of latency or peak memory. What is within the noise is no growth.",
)
@click.option("--across-devices", is_flag=True, help="Compare results of different devices.")
@click.option("--by-order", is_flag=True, help="Pair models by their order, not by file name and threads.")
@options.json_file
def command(
    base: Path,
    new: Path,
    max_regression: float,
    across_devices: bool,
    by_order: bool,
    json_path: Path | None,
) -> None:
    """Compare two results of `edgekd bench`, a line a model.

    A line begins with `ok` or `regression`. Exit code 4 if there is a regression.
    """
    from edgekd.benchmarking.comparison import compare
    from edgekd.cli import bench_tables

    options.claim({"--json": json_path}, [base, new])
    found = compare(base, new, max_regression=max_regression, across_devices=across_devices, by_order=by_order)
    content = found.to_json()
    options.show_and_write(lambda: bench_tables.comparison_text(content), json_path, content)
    found.require_no_regression()
