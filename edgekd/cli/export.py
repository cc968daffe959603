"""`edgekd export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from pathlib import Path


@click.command("export")
@click.argument("checkpoint", type=options.FILE)
@click.option(
    "--model",
    metavar="NAME",
    help="Architecture: a known name, or package.module:factory. By default that of the checkpoint's own card.",
)
@click.option(
    "--argument",
    "given",
    multiple=True,
    metavar="KEY=VALUE",
    help="An argument of your own factory, such as width=16. By default those of the checkpoint's own card.",
)
@click.option(
    "--contract",
    type=options.FILE,
    metavar="FILE",
    help="JSON: layout, size, colour, mean, std, labels. By default the checkpoint's own card.",
)
@click.option("--opset", type=click.IntRange(17, 20), default=18, show_default=True)
@click.option("-o", "output", type=options.FILE, required=True, metavar="MODEL.onnx")
def command(
    checkpoint: Path, model: str | None, given: tuple[str, ...], contract: Path | None, opset: int, output: Path
) -> None:
    """Export a checkpoint to ONNX and compare the file with torch."""
    from edgekd.artifact import card_model, card_path
    from edgekd.cli import ui
    from edgekd.data.contract import card_contract, read_contract
    from edgekd.errors import UsageError
    from edgekd.onnx_export import export_checkpoint
    from edgekd.recipe_file import read_setting
    from edgekd.text import bytes_text

    options.claim({"-o": output}, [checkpoint, contract])
    noted, arguments = card_model(card_path(checkpoint))
    if model is None and noted is None:
        raise UsageError(f"{checkpoint}: it has no card that names its model; give one with --model")
    if model not in (None, noted):
        arguments = {}  # those of another model
    arguments |= dict(read_setting(word, "--argument", "width=16") for word in given)
    found = read_contract(contract) if contract is not None else card_contract(card_path(checkpoint))
    exported = export_checkpoint(
        checkpoint, output, model=model or str(noted), contract=found, arguments=arguments, opset=opset
    )
    ui.say(
        f"{output}: opset {exported.opset}, {bytes_text(len(exported.content))}, differs from torch by at most "
        f"{exported.parity.max_absolute:.2g} ({exported.parity.max_relative:.2g} of the range); "
        f"{exported.flushed_subnormals} subnormal weights set to zero"
    )
