"""`edgekd bundle`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from pathlib import Path

    from edgekd.bundling.manifest import Manifest


@click.command("bundle")
@click.argument("models", nargs=-1, required=True, type=options.FILE, metavar="MODEL.onnx...")
@click.option(
    "--platform",
    "platforms",
    required=True,
    metavar="NAME,NAME",
    help="Where it is to run: python, node, ...",
)
@click.option(
    "--format",
    type=click.Choice(["onnx", "ort"]),
    default="onnx",
    show_default=True,
    help="ort: onnxruntime's own format, and which operators a minimal build of it needs.",
)
@click.option(
    "--data", type=options.DATA, metavar="DATA", help="Where the golden inputs are from; else they are made up."
)
@click.option("--runs", type=click.IntRange(1, 1000), default=4, show_default=True, help="How many golden inputs.")
@click.option(
    "--device", "devices", multiple=True, metavar="NAME", help="Compute what models answer on this device, too."
)
@click.option("--session", type=options.FILE, metavar="FILE", help="Session options, as bench --tune writes them.")
@click.option("--benchmark", type=options.FILE, metavar="FILE", help="Enclose this result of bench --json.")
@click.option("--licence", "licences", multiple=True, type=options.FILE, metavar="FILE", help="Enclose this licence.")
@click.option(
    "--tokenizer", type=options.FILE, metavar="FILE", help="The tokenizer.json of a model that takes texts."
)
@click.option("--sign", type=options.FILE, metavar="KEY.pem", help="Sign the manifest with this Ed25519 key.")
@options.image_options
@click.option("-o", "output", type=options.FILE, required=True, metavar="DIR", help="A folder that is not there yet.")
def command(
    models: tuple[Path, ...],
    platforms: str,
    format: Literal["onnx", "ort"],  # noqa: A002
    data: str | None,
    runs: int,
    devices: tuple[str, ...],
    session: Path | None,
    benchmark: Path | None,
    licences: tuple[Path, ...],
    tokenizer: Path | None,
    sign: Path | None,
    contract: Path | None,
    labels: str,
    output: Path,
) -> None:
    """Write models into a folder that an app embeds, with a self-test for each platform.

    Several models stand for each other, such as one for each target: each CPU gets the one that is right on it.
    """
    from edgekd.bundling.bundle import bundle
    from edgekd.bundling.ort_format import SLOW
    from edgekd.bundling.packages import find_platforms
    from edgekd.bundling.signature import public_hex, read_private_key
    from edgekd.cli import ui

    progress, asked = ui.progress(), find_platforms(platforms)
    key = None if sign is None else read_private_key(sign)
    manifest = bundle(
        models,
        output,
        platforms=asked,
        format=format,
        data=data,
        runs=runs,
        devices=devices,
        session=session,
        benchmark=benchmark,
        licences=licences,
        tokenizer=tokenizer,
        sign=key,
        contract=options.open_contract(contract),
        labels=labels,
        progress=progress,
    )
    ui.say(_text(output, manifest, asked))
    if format == "ort" and any(variant.precision != "int8" for variant in manifest.variants):
        progress.note(SLOW)
    if key is not None:
        ui.say(f"  signed; the public key is {public_hex(key)}")
    if data is None:
        progress.note(
            "the golden inputs are made up: --data gives real ones, which test more of what the app will see"
        )


def _text(folder: Path, manifest: Manifest, platforms: tuple[str, ...]) -> str:
    """Return what is in a bundle, in short."""
    from edgekd.bundling.readme import cpus
    from edgekd.bundling.variants import PLACES
    from edgekd.text import bytes_text, counted

    sizes = {file.path: file.bytes for file in manifest.files}
    lines = [f"{folder}: {counted(len(manifest.files), 'file')} for {', '.join(platforms)}"]
    for variant in manifest.variants:
        targets = cpus(manifest, variant.path)
        told = f"for {', '.join(targets)}" if targets else "for no CPU: another file is better on each"
        lines.append(f"  {variant.path} ({variant.precision}, {bytes_text(sizes[variant.path])}) {told}")
    missing = [name for name in PLACES if name not in manifest.targets]
    if missing:
        lines.append(f"  no file is right on {', '.join(missing)}: it would saturate there")
    return "\n".join(lines)
