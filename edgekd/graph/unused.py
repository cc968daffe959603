"""Remove what nothing reads: weights that take room, and conversions that onnxruntime would run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_CONVERSIONS = ("DequantizeLinear", "QuantizeLinear")


def drop_unused_initializers(model: onnx.ModelProto) -> int:
    """Remove initializers that nothing reads.

    Requires: no sub-graphs that read them (none is looked into, so with any sub-graph nothing is removed).
    Ensures: every initializer is read by a node or is an output.

    Returns:
        How many were removed.
    """
    graph = model.graph
    if _has_subgraphs(graph):
        return 0
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    unused = [tensor for tensor in graph.initializer if tensor.name not in read]
    for tensor in unused:
        graph.initializer.remove(tensor)
    return len(unused)


def drop_unread_conversions(model: onnx.ModelProto) -> int:
    """Remove every QuantizeLinear and DequantizeLinear of the main graph whose output nothing reads.

    Requires: nodes sorted; no sub-graph that reads their outputs (with any sub-graph nothing is removed).

    Returns:
        How many were removed.
    """
    graph = model.graph
    if _has_subgraphs(graph):
        return 0
    read = {value.name for value in graph.output}
    unread = []
    for node in reversed(graph.node):
        if node.op_type in _CONVERSIONS and node.output[0] not in read:
            unread.append(node)
        else:
            read |= set(node.input)
    for node in unread:
        graph.node.remove(node)
    return len(unread)


def _has_subgraphs(graph: onnx.GraphProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute)
