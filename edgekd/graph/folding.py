"""Fold constants and batch normalisation, so that every layer to quantize stands as one node with its weights."""

from __future__ import annotations

import onnx

from edgekd.errors import ModelError
from edgekd.runtime import write_optimized
from edgekd.temporary import temporary_folder


def fold(content: bytes, name: str) -> onnx.ModelProto:
    """Return the model after onnxruntime's basic optimization, with shapes inferred.

    Basic optimization is portable: it folds constants and batch normalisation and removes what does nothing,
    and writes standard operators only.

    Requires: a model that onnxruntime loads.
    Ensures: no BatchNormalization behind a Conv; the types of all values known; metadata kept; no opset named
    that no node uses (onnxruntime adds all it knows, and an older one refuses those it does not know).

    Raises:
        ModelError: it cannot be loaded, or its shapes contradict each other.
        OutputError: the system's temporary folder has no room for it.
    """
    with temporary_folder() as folder:
        path = folder / "folded.onnx"
        source = write_optimized(content, path, name=name, optimization="basic")
        model = onnx.load(path)
    _keep_used_domains(model)
    del model.metadata_props[:]
    for key in sorted(source.metadata):
        model.metadata_props.add(key=key, value=source.metadata[key])
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"{name}: its shapes contradict each other: {error}") from error


def _keep_used_domains(model: onnx.ModelProto) -> None:
    used = {node.domain for node in model.graph.node} | {"", "ai.onnx"}
    for entry in [entry for entry in model.opset_import if entry.domain not in used]:
        model.opset_import.remove(entry)
