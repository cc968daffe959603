"""Write GELU so that onnxruntime recognises it, and computes it in one kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper

if TYPE_CHECKING:
    import onnx


def gelu_to_fusible(model: onnx.ModelProto) -> int:
    """Turn `x * (0.5 * (1 + Erf(...)))` into `(x * (1 + Erf(...))) * 0.5`.

    torch's exporter writes the first; onnxruntime's `gelu_fusion.cc` looks for the second (and for
    `(0.5 * x) * (1 + Erf(...))`), to make Gelu or BiasGelu of it. What stands inside Erf is not looked at here.

    Ensures: the same values, bit by bit unless they are subnormal: halving is exact.

    Returns:
        How many were rewritten.
    """
    graph = model.graph
    halves = {tensor.name for tensor in graph.initializer if _is_half(tensor)}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {value.name: 1 for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    rewritten = 0
    for node in graph.node:
        for halved in node.input if node.op_type == "Mul" else ():
            inner = makers.get(halved)
            if inner is None or inner.op_type != "Mul" or readers[halved] != 1 or not halves & {*inner.input}:
                continue
            half, total = sorted(inner.input, key=lambda name: name not in halves)
            if not _is_one_plus_erf(total, makers):
                continue
            x = next(name for name in node.input if name != halved)
            inner.input[:] = [x, total]
            node.input[:] = [halved, half]
            rewritten += 1
    return rewritten


def _is_half(tensor: onnx.TensorProto) -> bool:
    value = numpy_helper.to_array(tensor)
    return value.dtype == np.float32 and value.size == 1 and value.item() == 0.5


def _is_one_plus_erf(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    node = makers.get(name)
    sources = [] if node is None or node.op_type != "Add" else [makers.get(source) for source in node.input]
    return any(source is not None and source.op_type == "Erf" for source in sources)
