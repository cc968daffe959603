"""`edgekd quantize`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from pathlib import Path


@click.command("quantize")
@click.argument("model", type=options.FILE)
@click.option("--calibration", required=True, metavar="DATA", help="Sets the ranges: .npz, folder or RECIPE#split.")
@click.option("--evaluation", metavar="DATA", help="Scores the result against the fp32 model.")
@click.option(
    "--target", default="auto", show_default=True, metavar="NAME", help="Instruction set; auto is this machine's."
)
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="At most so many calibration samples.")
@options.max_drop
@options.image_options
@click.option("-o", "output", type=options.FILE, required=True, metavar="OUT.onnx")
@options.json_file
def command(
    model: Path,
    calibration: str,
    evaluation: str | None,
    target: str,
    samples: int | None,
    max_drop: float | None,
    contract: Path | None,
    labels: str,
    output: Path,
    json_path: Path | None,
) -> None:
    """Quantize an ONNX model to static INT8 for a target.

    DATA is an .npz (arrays named like the model's inputs, optional labels), a folder of images, or a split of a
    recipe: RECIPE.toml#calibration.
    """
    from edgekd.cli import ui
    from edgekd.quantization.static import quantize
    from edgekd.scoring import require_drop

    result = quantize(
        model,
        calibration,
        output,
        target=target,
        samples=samples,
        evaluation=evaluation,
        max_drop=max_drop,
        contract=options.open_contract(contract),
        labels=labels,
        progress=ui.progress(),
    )
    options.write_result(json_path, result.to_json())
    left = f"; left in fp32: {', '.join(result.fp32_layers)}" if result.fp32_layers else ""
    click.echo(f"{output}: {ui.bytes_text(len(result.content))} for {result.target.name}{left}")
    if result.evaluation is not None:
        click.echo(ui.evaluation_text(result.evaluation.to_json()))
        if max_drop is not None:
            require_drop(result.evaluation, max_drop, f"The best attempt is at {output}.")
