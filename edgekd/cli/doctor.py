"""`edgekd doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from pathlib import Path


@click.command("doctor")
@click.argument("models", nargs=-1, type=options.FILE, metavar="[MODEL]...")
@click.option("--target", default="auto", show_default=True, metavar="NAME", help="Judge the models for this CPU.")
@options.json_file
def command(models: tuple[Path, ...], target: str, json_path: Path | None) -> None:
    """Say what this machine is, what is installed, and whether models give right answers here.

    Exits with 3 where a model can saturate: its INT8 answers may be wrong on this CPU, though they are right on
    others. That is read off the integer weights, whichever tool wrote the file.
    """
    from edgekd.cli import ui
    from edgekd.doctor import diagnose

    options.claim({"--json": json_path}, models)
    diagnosis = diagnose(models, target=target)
    content = diagnosis.to_json()
    options.show_and_write(lambda: ui.diagnosis(content), json_path, content)
    diagnosis.require_sound()
