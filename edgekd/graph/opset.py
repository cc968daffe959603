"""Lower a model's opset for older runtimes, or raise it for newer operators."""

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
    lowered, reason = _converted(model, opset)
    if lowered is None:
        raise ModelError(f"this model cannot be written in opset {opset}, only in {found}{reason}")
    return lowered


def raise_opset(model: onnx.ModelProto, least: int, name: str) -> onnx.ModelProto:
    """Return the model in the opset `least`, or as it is if it has that or a later one already.

    Requires: weights inside the file, and none of them listed as an input.
    Ensures: metadata kept.

    Raises:
        ModelError: an operator has no newer form, or no version of the standard operators is named at all.
    """
    found = default_opset(model)
    if found >= least:
        return model
    raised, reason = _converted(model, least)
    if raised is None:
        raise ModelError(
            f"{name}: this model is in opset {found}, and cannot be brought into opset {least}, the least for 8 bits "
            f"with a scale for each channel{reason}; export it again in opset 17 or later"
        )
    del raised.metadata_props[:]
    raised.metadata_props.extend(model.metadata_props)
    return raised


def _converted(model: onnx.ModelProto, opset: int) -> tuple[onnx.ModelProto | None, str]:
    """Return the model in another opset, or None and the reason why not."""
    try:
        converted = onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return None, f": {reason.rpartition(' failed: ')[2]}"  # behind the place in the converter's own source
    return (converted, "") if default_opset(converted) == opset else (None, "")


def default_opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that a model uses."""
    versions = (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return int(next(versions, 1))  # the first, where none is named: onnx.proto, opset_import
