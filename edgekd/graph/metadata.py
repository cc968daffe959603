"""What an ONNX file of ours says about itself, in `metadata_props` whose keys start with `edgekd.`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

MAX_IR_VERSION = 10  # onnxruntime 1.19, the last for Python 3.9, reads no newer one


def write_metadata(model: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Set metadata entries, sorted by key; those of the same key are replaced.

    Requires: every key starts with `edgekd.`.
    Ensures: the entries stand in the model, in the order of their keys.
    """
    merged = {entry.key: entry.value for entry in model.metadata_props} | dict(entries)
    del model.metadata_props[:]
    for key in sorted(merged):
        model.metadata_props.add(key=key, value=merged[key])


def cap_ir_version(model: onnx.ModelProto) -> None:
    """Lower the IR version to what boards with an older onnxruntime read.

    Requires: no feature of a newer IR in use (opset 20 and below has none).
    Ensures: `ir_version <= MAX_IR_VERSION`.
    """
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
