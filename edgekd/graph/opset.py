"""Lower a model's opset for older runtimes."""

from __future__ import annotations

import onnx

from edgekd.errors import ModelError


def lower_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the model in an older opset, or as it is if it has that opset already.

    Requires: weights inside the file.
    Ensures: the default domain's opset is `opset`.

    Raises:
        ModelError: an operator has no older form.
    """
    found = default_opset(model)
    if found == opset:
        return model
    try:
        lowered = onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"this model cannot be written in opset {opset}, only in {found}: {reason}") from error
    if default_opset(lowered) != opset:
        raise ModelError(f"this model cannot be written in opset {opset}, only in {found}")
    return lowered


def default_opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that a model uses."""
    versions = (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return int(next(versions))
