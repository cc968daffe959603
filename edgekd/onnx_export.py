"""From a torch module to an ONNX file, with a parity check on real inputs. The last room that may import torch."""

from __future__ import annotations

import json
import logging
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.artifact import rounded, write_bytes
from edgekd.errors import DataError, ModelError, UsageError, require_extra, user_code
from edgekd.graph.metadata import cap_ir_version, write_metadata
from edgekd.graph.opset import lower_opset
from edgekd.graph.pooling import mean_to_pooling
from edgekd.graph.subnormals import flush_subnormals
from edgekd.graph.traces import strip_traces
from edgekd.graph.unused import drop_unused_initializers
from edgekd.runtime import open_model

for _module in ("torch", "onnxscript"):
    require_extra("train", _module)

import torch  # noqa: E402  only once the message about the missing extra has had its chance

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx
    from numpy.typing import ArrayLike, NDArray

    from edgekd.data import Contract

OPSETS = range(17, 21)
NATIVE_OPSET = 18  # the lowest that torch writes by itself
PREFIX = "edgekd."  # of what a file says about itself
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
RELATIVE_TOLERANCE = 1e-3  # of the largest output; float32 rounding in another order stays below 1e-5


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the ONNX file's outputs are from torch's on the same inputs.

    Attributes:
        samples: How many inputs were compared.
        max_absolute: Largest absolute difference.
        max_relative: The same, as a share of the largest absolute output of torch.
        agreement: Share of samples with the same argmax.
    """

    samples: int
    max_absolute: float
    max_relative: float
    agreement: float


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An ONNX model as bytes, and what was found on the way.

    Attributes:
        content: The file.
        opset: Its opset.
        flushed_subnormals: How many weights were so small that they were set to zero.
        parity: Comparison with torch.
    """

    content: bytes
    opset: int
    flushed_subnormals: int
    parity: Parity

    def metrics(self) -> dict[str, Any]:
        """Return the figures for a card."""
        return {
            "opset": self.opset,
            "flushed_subnormals": self.flushed_subnormals,
            "parity": {
                "samples": self.parity.samples,
                "max_absolute": self.parity.max_absolute,
                "max_relative": self.parity.max_relative,
                "agreement": self.parity.agreement,
            },
        }


def export(
    module: torch.nn.Module,
    output: str | Path | None,
    *,
    contract: Contract,
    inputs: ArrayLike | None = None,
    opset: int = 18,
    metadata: Mapping[str, str] | None = None,
) -> Exported:
    """Export a module to ONNX with a free batch axis, check it against torch, and write it.

    Args:
        module: Takes one float32 tensor (N, *contract.shape) and gives logits (N, classes).
        output: The file to write; None to write none.
        contract: What goes in. It is written into the file.
        inputs: Real inputs (N, *contract.shape), N >= 2, for the comparison, taken as float32; by default 8 of
            seeded noise.
        opset: ONNX opset, 17 to 20.
        metadata: Further entries for the file; keys start with `edgekd.`.

    Raises:
        DataError: the inputs are fewer than two or do not fit the contract.
        ModelError: the module fails, gives no logits or not one for each label of the contract; torch cannot export
            it; or the file does not answer as the module does.
        UsageError: the opset is out of range, or a metadata key does not start with `edgekd.`.
        OutputError: the file cannot be written; an earlier one stays.
    """
    if opset not in OPSETS:
        raise UsageError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, found {opset}")
    for key in metadata or {}:
        if not key.startswith(PREFIX):
            raise UsageError(f"a metadata key starts with {PREFIX!r}, found {key!r}")
    real = _checked_inputs(inputs, contract)
    with _eval_mode(module):
        _answer(module, real[:2], contract)
        model = _trace(module, torch.from_numpy(real[:2]), contract, opset)
        if mean_to_pooling(model):
            drop_unused_initializers(model)
        model = lower_opset(model, opset)
        strip_traces(model)
        flushed = flush_subnormals(model)
        cap_ir_version(model)
        entries = {"edgekd.contract": json.dumps(contract.to_json(), sort_keys=True), **(metadata or {})}
        write_metadata(model, entries)
        content = model.SerializeToString(deterministic=True)
        parity = check_parity(module, content, real, contract)
    if output is not None:
        write_bytes(Path(output), content)
    return Exported(content=content, opset=opset, flushed_subnormals=flushed, parity=parity)


def export_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    *,
    model: str,
    contract: Contract,
    arguments: Mapping[str, object] | None = None,
    opset: int = 18,
) -> Exported:
    """Export the weights in a file; see `export`.

    Args:
        checkpoint: A state dict (`.safetensors`, or `.pt` read with `weights_only`).
        output: The file to write.
        model: The architecture: a known name, or `package.module:factory`.
        contract: What goes in; its labels say how many classes there are.
        arguments: Keyword arguments of a factory.
        opset: ONNX opset, 17 to 20.
    """
    from edgekd.models import build, load_weights

    if not contract.labels:
        raise ModelError("export: the contract must name the labels, one for each class of the model")
    module = build(model, classes=len(contract.labels), shape=contract.shape, arguments=arguments)
    load_weights(module, checkpoint)
    return export(module, output, contract=contract, opset=opset)


def check_parity(module: torch.nn.Module, content: bytes, inputs: NDArray[np.float32], contract: Contract) -> Parity:
    """Compare an ONNX model with the module it came from.

    Args:
        module: In eval mode.
        content: The ONNX file's bytes.
        inputs: Shape (N, *contract.shape).
        contract: Names the input and the output.

    Raises:
        ModelError: an output holds NaN or infinity, or they differ by more than `RELATIVE_TOLERANCE`.
    """
    expected = _answer(module, inputs, contract)
    found = open_model(content, name="the exported model").run({contract.input: inputs}, [contract.output])[0]
    for name, values in (("torch's", expected), ("the exported model's", found)):
        if not np.isfinite(values).all():
            raise ModelError(f"export: {name} output holds NaN or infinity for real inputs")
    if found.shape != expected.shape:
        raise ModelError(f"export: torch gives shape {expected.shape}, the exported model {found.shape}")
    absolute = float(np.abs(found - expected).max())
    largest = float(np.abs(expected).max())
    relative = absolute / largest if largest > 0 else absolute
    if relative > RELATIVE_TOLERANCE:
        raise ModelError(
            f"export: the exported model's output differs from torch's by {relative:.2g} of its range, "
            f"at most {RELATIVE_TOLERANCE:g} is accepted; a branch on the input's values or a fixed batch size in "
            "the module's code is the usual cause"
        )
    return Parity(
        samples=len(inputs),
        max_absolute=rounded(absolute),
        max_relative=rounded(relative),
        agreement=rounded(float(np.mean(found.argmax(axis=-1) == expected.argmax(axis=-1)))),
    )


def _checked_inputs(inputs: ArrayLike | None, contract: Contract) -> NDArray[np.float32]:
    if inputs is None:
        return np.random.default_rng(0).standard_normal((8, *contract.shape), dtype=np.float32)
    try:
        real = np.ascontiguousarray(inputs, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"export: the inputs are no array of numbers: {error}") from error
    if real.shape[1:] != contract.shape or len(real) < 2:
        raise DataError(
            f"export: the inputs must have shape (N, {', '.join(map(str, contract.shape))}) with N >= 2, as the "
            f"batch axis stays free, found {real.shape}"
        )
    return real


def _answer(module: torch.nn.Module, inputs: NDArray[np.float32], contract: Contract) -> NDArray[np.float32]:
    """Return a module's logits, and see that there is one for each label."""
    with torch.no_grad(), user_code(f"export: the module cannot take inputs of shape {inputs.shape}"):
        logits = module(torch.from_numpy(inputs))
    if not isinstance(logits, torch.Tensor):
        raise ModelError(f"export: the module must return one tensor of logits, found {type(logits).__name__}")
    if len(contract.labels) not in (0, logits.shape[-1] if logits.ndim else 0):
        raise ModelError(
            f"export: the contract names {len(contract.labels)} labels, the module's logits have shape "
            f"{tuple(logits.shape)}; there must be one for each label"
        )
    answer: NDArray[np.float32] = logits.numpy()
    return answer


def _trace(module: torch.nn.Module, example: torch.Tensor, contract: Contract, opset: int) -> onnx.ModelProto:
    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=max(opset, NATIVE_OPSET),
                input_names=[contract.input],
                output_names=[contract.output],
                dynamic_shapes=({0: batch},),
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # torch runs the module's own code
            raise ModelError(f"export: torch cannot export this module: {_reason(error)}") from error
    assert program is not None
    return program.model_proto


def _reason(error: BaseException) -> str:
    """Return the first line of what the exporter failed on, without the colours of a terminal."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = (line.strip() for line in _ANSI.sub("", str(error)).splitlines())
    first = next((line for line in lines if line), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


@contextmanager
def _eval_mode(module: torch.nn.Module) -> Iterator[None]:
    """Keep a module in eval mode, and give each of its layers its own mode back."""
    modes = [(layer, layer.training) for layer in module.modules()]
    with user_code("export: the module's eval() failed"):
        module.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own warnings, which are about its parts and not about the module, to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
