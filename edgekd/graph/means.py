"""Keep the axes of a mean over all pixels, and drop them behind it: what `pooling.py` then turns into 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import helper, numpy_helper

if TYPE_CHECKING:
    import onnx


def keep_mean_axes(model: onnx.ModelProto) -> int:
    """Write every ReduceMean of a 4-dimensional tensor to `(N, C)` as one to `(N, C, 1, 1)` and a Flatten.

    Requires: shapes of the values known (`value_info`).
    Ensures: the same values.

    Returns:
        How many nodes were rewritten.
    """
    graph = model.graph
    known = {value.name: len(value.type.tensor_type.shape.dim) for value in [*graph.input, *graph.value_info]}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = [
        node
        for node in graph.node
        if node.op_type == "ReduceMean" and known.get(node.input[0]) == 4 and _drops_pixels(node, constants)
    ]
    for node in found:
        kept = f"edgekd.{node.output[0]}.kept"
        flatten = helper.make_node("Flatten", [kept], [node.output[0]], f"edgekd.{node.name}.flatten", axis=1)
        graph.node.insert(list(graph.node).index(node) + 1, flatten)
        node.output[0] = kept
        settings = [attribute for attribute in node.attribute if attribute.name != "keepdims"]
        del node.attribute[:]
        node.attribute.extend([*settings, helper.make_attribute("keepdims", 1)])
    return len(found)


def _drops_pixels(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    axes = settings.get("axes")
    if len(node.input) > 1 and node.input[1] in constants:
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
    return axes is not None and sorted(axis % 4 for axis in axes) == [2, 3] and not settings.get("keepdims", 1)
