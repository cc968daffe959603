"""`edgekd evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from pathlib import Path


@click.command("evaluate")
@click.argument("model", type=options.FILE)
@click.option(
    "--data",
    type=options.DATA,
    required=True,
    metavar="DATA",
    help="An .npz, a folder of images, or RECIPE.toml#split.",
)
@click.option("--reference", type=options.FILE, metavar="FP32.onnx", help="Compare with this model's answers.")
@options.max_drop
@options.image_options
@click.option("--device", default="local", show_default=True, metavar="NAME", help="Where the model runs.")
@options.json_file
def command(
    model: Path,
    data: str,
    reference: Path | None,
    max_drop: float | None,
    contract: Path | None,
    labels: str,
    device: str,
    json_path: Path | None,
) -> None:
    """Score an ONNX model on data: accuracy, and agreement with a reference."""
    from edgekd.cli import ui
    from edgekd.cli.quantization_text import evaluation_text
    from edgekd.doctor import saturation_note
    from edgekd.evaluation import evaluate
    from edgekd.scoring import require_drop

    if max_drop is not None and reference is None:
        raise click.UsageError("--max-drop is measured against --reference FP32.onnx")
    options.claim({"--json": json_path}, [model, data, reference, contract])
    progress = ui.progress()
    result = evaluate(
        model,
        data,
        reference=reference,
        contract=options.open_contract(contract),
        labels=labels,
        device=device,
        progress=progress,
    )
    content = result.to_json()
    options.show_and_write(lambda: ui.say(evaluation_text(content)), json_path, content)
    if device == "local":
        options.tell(progress, saturation_note(model))
    if max_drop is not None:
        require_drop(result, max_drop, f"The model is at {model}.")
