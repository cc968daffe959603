"""`edgekd doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from pathlib import Path


@click.command("doctor")
@click.argument("files", nargs=-1, type=options.FILE, metavar="[MODEL|BUNDLE|LIBRARY]...")
@click.option("--target", default="auto", show_default=True, metavar="NAME", help="Judge models for this CPU.")
@click.option(
    "--platform",
    "platforms",
    default="",
    metavar="NAMES",
    help="Also for these packages of onnxruntime: python,node,web,cpp,android,ios.",
)
@click.option("--key", metavar="HEX", help="Bundles have to be signed with the private half of this key.")
@options.json_file
def command(files: tuple[Path, ...], target: str, platforms: str, key: str | None, json_path: Path | None) -> None:
    """Say what this machine is, what is installed, and what files are worth here.

    MODEL is an ONNX file: whether its INT8 answers are right on this CPU, which onnxruntime reads it, and what slows
    it down. BUNDLE is a folder that edgekd bundle wrote: whether it is whole, and answers here as it should. LIBRARY
    is an .so file, an AAR or APK, or a folder of such: whether Android devices with pages of 16 KB load it.

    Exits with 3 where a file cannot be loaded, or a model can saturate: its INT8 answers may be wrong on this CPU,
    though they are right on others. That is read off the integer weights, whichever tool wrote the file.
    """
    from edgekd.bundling.packages import find_platforms
    from edgekd.cli import doctor_text
    from edgekd.doctor import diagnose

    options.claim({"--json": json_path}, files)
    diagnosis = diagnose(files, target=target, platforms=find_platforms(platforms), public_key=key)
    content = diagnosis.to_json()
    options.show_and_write(lambda: doctor_text.diagnosis(content), json_path, content)
    diagnosis.require_sound()
