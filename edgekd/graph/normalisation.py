"""Write a batch normalisation that no convolution took up as one of its own: for that there is an integer kernel.

Normalisation in front of an activation and a convolution, as in pre-activation residual networks, reads a sum and
cannot be folded into what comes before it. onnxruntime has no integer BatchNormalization, and so each of them would
be a float32 island. It multiplies and shifts every channel by itself: a depthwise convolution of one pixel, whose one
weight a channel becomes 127 with a scale of its own, and whose bias has 32 bits. So nothing is lost but what the
8 bits of its output cost, and a Relu behind it becomes part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    import onnx

_LAYERS = ("Conv", "Gemm", "MatMul")


def normalisation_to_convolution(model: onnx.ModelProto) -> int:
    """Replace every BatchNormalization of an image (or sequence) that comes from a layer by a depthwise convolution.

    One that reads the model's input, or anything else before the first layer, stays: it is exact in float32.

    Requires: nodes sorted and named, shapes of the values known (`value_info`).
    Ensures: the same values but for rounding of float32; old constants stay, for others may use them.

    Returns:
        How many nodes were replaced.
    """
    graph = model.graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    behind: set[str] = set()  # values that come from a layer
    replaced = 0
    for node in graph.node:
        if node.op_type in _LAYERS or behind.intersection(node.input):
            behind |= set(node.output)
        if node.op_type != "BatchNormalization" or not set(node.input[1:]) <= set(constants):
            continue
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        rank = ranks.get(node.input[0], 0)
        if rank < 3 or node.input[0] not in behind or settings.get("training_mode", 0):
            continue
        scale, shift, mean, variance = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
        slope = scale / np.sqrt(variance.astype(np.float64) + settings.get("epsilon", 1e-5))
        weight, bias = f"edgekd.{node.output[0]}.weight", f"edgekd.{node.output[0]}.bias"
        for name, values in ((weight, slope.reshape(-1, *[1] * (rank - 1))), (bias, shift - mean * slope)):
            graph.initializer.append(numpy_helper.from_array(values.astype(scale.dtype), name))
        node.CopyFrom(
            helper.make_node("Conv", [node.input[0], weight, bias], [node.output[0]], node.name, group=len(scale))
        )
        replaced += 1
    return replaced
