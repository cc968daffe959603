"""Remove nodes that make nothing anybody reads; onnxruntime would run them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_CONVERSIONS = ("DequantizeLinear", "QuantizeLinear")


def drop_unread_conversions(model: onnx.ModelProto) -> int:
    """Remove every QuantizeLinear and DequantizeLinear of the main graph whose output nothing reads.

    Requires: nodes sorted; no sub-graph that reads their outputs (with any sub-graph nothing is removed).

    Returns:
        How many were removed.
    """
    graph = model.graph
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
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
