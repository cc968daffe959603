"""Sort nodes as ONNX demands: each behind those whose values it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx


def sort_nodes(model: onnx.ModelProto) -> None:
    """Bring the nodes of the main graph into an order in which values are made before they are read.

    A node keeps its place but for what it needs, which comes right before it. onnxruntime opens an unsorted graph;
    its quantizer writes one, and other tools refuse it.

    Requires: no circle among the nodes.
    Ensures: a sorted graph; a graph that is sorted already keeps its order.
    """
    graph = model.graph
    nodes = list(graph.node)
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    placed: dict[int, onnx.NodeProto] = {}
    for first in range(len(nodes)):
        waiting = [first]
        while waiting:
            index = waiting[-1]
            needed = {makers[name] for name in _reads(nodes[index]) if name in makers} - placed.keys()
            if index in placed or not needed:
                placed.setdefault(waiting.pop(), nodes[index])
            else:
                waiting += sorted(needed, reverse=True)
    ordered = list(placed.values())
    del graph.node[:]
    graph.node.extend(ordered)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names a node reads, those its sub-graphs take from around them among them."""
    yield from node.input
    for attribute in node.attribute:
        for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            for member in inner.node:
                yield from _reads(member)
