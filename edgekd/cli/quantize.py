"""`edgekd quantize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgekd.quantization.modes import Mode
    from edgekd.quantization.result import Quantized

# One option for each field of `edgekd.quantization.static.Method`, and of the same name.
METHOD_OPTIONS = (
    click.option(
        "--ranges",
        type=click.Choice(["minmax", "percentile", "entropy", "mse", "auto"]),
        default="mse",
        show_default=True,
        help="How the range of an activation is chosen; auto asks the nodes that read it, and takes longest.",
    ),
    click.option(
        "--rounding",
        type=click.Choice(["gptq", "nearest"]),
        default="gptq",
        show_default=True,
        help="Round weights with the layer's error in view, or each for itself.",
    ),
    click.option(
        "--bias-correction/--no-bias-correction",
        default=True,
        show_default=True,
        help="Let biases make good the mean error of rounding.",
    ),
    click.option(
        "--weight-ranges",
        type=click.Choice(["max", "mse"]),
        default="mse",
        show_default=True,
        help="Scales of weights that clip none, or with the least squared error.",
    ),
    click.option(
        "--equalisation/--no-equalisation",
        default=True,
        show_default=True,
        help="Scale channels between layers to like widths first.",
    ),
    click.option(
        "--smoothing/--no-smoothing",
        default=True,
        show_default=True,
        help="Scale inputs of matrix products in which a few channels dwarf the others (transformers).",
    ),
)


def method_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `METHOD_OPTIONS`."""
    for option in reversed(METHOD_OPTIONS):
        function = option(function)
    return function


@click.command("quantize")
@click.argument("model", type=options.FILE)
@click.option(
    "--mode",
    type=click.Choice(["static", "dynamic", "fp16"]),
    default="static",
    show_default=True,
    help="INT8 from calibration data; INT8 whose activations are quantized at run time; or weights in fp16.",
)
@click.option(
    "--calibration",
    type=options.DATA,
    metavar="DATA",
    help="Sets the ranges of static INT8: .npz, folder or RECIPE#split.",
)
@click.option("--evaluation", type=options.DATA, metavar="DATA", help="Scores the result against the fp32 model.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=("auto",),
    metavar="NAME",
    help="Instruction set; auto is this machine's, and the default. Several give a file each.",
)
@method_options
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="At most so many calibration samples.")
@click.option("--cache", type=options.FILE, metavar="DIR", help="Keep calibrated ranges here for the next call.")
@click.option("--measure", is_flag=True, help="Time the file beside the fp32 model, here, and what of it is fp32.")
@options.max_drop
@options.image_options
@click.option("-o", "output", type=options.FILE, required=True, metavar="OUT.onnx")
@options.json_file
def command(
    model: Path,
    mode: Mode,
    calibration: str | None,
    evaluation: str | None,
    targets: tuple[str, ...],
    samples: int | None,
    cache: Path | None,
    measure: bool,
    max_drop: float | None,
    contract: Path | None,
    labels: str,
    output: Path,
    json_path: Path | None,
    **method: Any,
) -> None:
    """Quantize an ONNX model for a target.

    DATA is an .npz (arrays named like the model's inputs, optional labels), a folder of images, or a split of a
    recipe: RECIPE.toml#calibration. Without data, "--calibration synthetic" makes samples up: a stopgap.

    With several targets OUT is a folder: a file for each, and manifest.json.
    """
    from edgekd.cli import ui
    from edgekd.cli.quantization_text import quantization_text
    from edgekd.quantization.job import MANIFEST
    from edgekd.quantization.modes import open_job
    from edgekd.quantization.static import Method

    if mode != "static":
        _refuse_method(mode)
    single = len(set(targets)) == 1
    written = output if single else output / MANIFEST
    options.claim({"-o": written, "--json": json_path}, [model, calibration, evaluation, contract])
    job = open_job(
        model,
        calibration,
        mode=mode,
        method=Method(**method) if mode == "static" else None,
        samples=samples,
        evaluation=evaluation,
        max_drop=max_drop,
        contract=options.open_contract(contract),
        labels=labels,
        measure=measure,
        cache=cache,
        progress=ui.progress(),
    )
    if single:
        results = {output: job.write(targets[0], output)}
        content = results[output].to_json()
    else:
        results = job.write_all(targets, output)
        content = {"schema": "edgekd.quantizations/1", "files": [result.to_json() for result in results.values()]}
    texts = [quantization_text(path, result.to_json(), len(result.content)) for path, result in results.items()]
    options.show_and_write(lambda: ui.say("\n".join(texts)), json_path, content)
    if max_drop is not None:
        _require_met(results, max_drop)


def _require_met(results: Mapping[Path, Quantized], max_drop: float) -> None:
    """Hold the file of every target against the gate."""
    from edgekd.scoring import require_drop

    for path, result in results.items():
        if result.evaluation is not None:
            reason = None if result.search is None else result.search.reason
            require_drop(result.evaluation, max_drop, f"The best attempt is at {path}.", reason=reason)


def _refuse_method(mode: Mode) -> None:
    """Refuse options that only static INT8 reads; the library does so for those that have no default."""
    from dataclasses import fields

    from edgekd.quantization.static import Method

    context = click.get_current_context()
    options_by_name = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for field in fields(Method):
        if context.get_parameter_source(field.name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"{options_by_name[field.name]} belongs to static INT8, not to --mode {mode}")
