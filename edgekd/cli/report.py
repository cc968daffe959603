"""`edgekd report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from pathlib import Path


@click.command("report")
@click.argument("sources", nargs=-1, required=True, type=options.FILE, metavar="RUN_DIR|RESULT.json...")
@click.option("-o", "output", type=options.FILE, required=True, metavar="PAGE.html", help="The page to write.")
def command(sources: tuple[Path, ...], output: Path) -> None:
    """Show results on one page that needs no network.

    Takes folders of runs, and the JSON files of `run`, `bench`, `evaluate` and `quantize`.
    """
    from edgekd.cli import ui
    from edgekd.reporting.page import report

    options.claim({"-o": output}, sources)
    ui.say(str(report(sources, output)))
