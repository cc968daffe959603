"""Give every node a name of its own, by which it can be looked up, left out and spoken of."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def name_nodes(model: onnx.ModelProto) -> int:
    """Name the nodes of the main graph that have no name, or one that an earlier node bears.

    Ensures: names differ, and do not depend on anything but the graph.

    Returns:
        How many were named.
    """
    taken = {node.name for node in model.graph.node}
    seen = {""}
    named = 0
    for node in model.graph.node:
        if node.name in seen:
            proposals = (f"{node.op_type}_{number}" for number in count())
            node.name = next(name for name in proposals if name not in taken)
            taken.add(node.name)
            named += 1
        seen.add(node.name)
    return named
