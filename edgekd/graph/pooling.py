"""Write a mean over all pixels as what it is: GlobalAveragePool, which runs in 8 bits and in every opset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import helper, numpy_helper

if TYPE_CHECKING:
    import onnx


def mean_to_pooling(model: onnx.ModelProto) -> int:
    """Replace every ReduceMean over the last two axes of a 4-dimensional tensor that keeps those axes.

    Requires: shapes of the values known (`value_info`).
    Ensures: the same values; the axes' initializers stay, for others may use them.

    Returns:
        How many nodes were replaced.
    """
    graph = model.graph
    known = {value.name: len(value.type.tensor_type.shape.dim) for value in [*graph.input, *graph.value_info]}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    replaced = 0
    for position, node in enumerate(graph.node):
        if node.op_type != "ReduceMean" or known.get(node.input[0]) != 4:
            continue
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        axes = settings.get("axes")
        if len(node.input) > 1 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        if axes is None or sorted(axis % 4 for axis in axes) != [2, 3] or settings.get("keepdims", 1) != 1:
            continue
        pooling = helper.make_node("GlobalAveragePool", [node.input[0]], [node.output[0]], node.name)
        graph.node.remove(node)
        graph.node.insert(position, pooling)
        replaced += 1
    return replaced
