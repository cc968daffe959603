"""`edgekd run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from pathlib import Path


@click.command("run")
@click.argument("recipe", type=options.FILE)
@options.run_folder
@options.overrides
def command(recipe: Path, output: Path | None, overrides: tuple[str, ...]) -> None:
    """Turn a recipe into a verified INT8 model.

    Trains teacher, control and student, exports, quantizes, evaluates and benches every file. Run again, it
    reuses what is unchanged; killed, it continues.
    """
    from edgekd.cli import run_tables, ui
    from edgekd.pipeline import run

    report = run(recipe, output, overrides=overrides, progress=ui.progress())
    run_tables.report_table(report.content)
    page = report.folder / "report.html"
    pictures = f", pictures in {page}" if page.exists() else ""
    ui.say(f"Everything is in {report.folder}; the figures are in {report.folder / 'report.json'}{pictures}.")
    report.require_gate()
