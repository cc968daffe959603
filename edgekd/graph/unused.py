"""Remove what nothing reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def drop_unused_initializers(model: onnx.ModelProto) -> int:
    """Remove initializers that nothing reads.

    Requires: no sub-graphs that read them (none is looked into, so with any sub-graph nothing is removed).
    Ensures: every initializer is read by a node or is an output.

    Returns:
        How many were removed.
    """
    graph = model.graph
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return 0
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    unused = [tensor for tensor in graph.initializer if tensor.name not in read]
    for tensor in unused:
        graph.initializer.remove(tensor)
    return len(unused)
