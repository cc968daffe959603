"""Write a division and a subtraction of a constant as a product and a sum, for which there are integer kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray


def constants_to_sums_and_products(model: onnx.ModelProto) -> int:
    """Turn `x / c` into `x * (1 / c)` and `x - c` into `x + (-c)`, for constants c of one float32 number.

    onnxruntime has QLinearMul and QLinearAdd, and nothing for Div and Sub. One number becomes an 8-bit one without
    loss; several would not, and stay. So does what only an Erf reads: it computes in float32, and onnxruntime
    recognises GELU by this division.

    Ensures: values that differ by rounding of float32 alone; old constants stay, for others may use them.

    Returns:
        How many nodes were rewritten.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    elsewhere = {name for node in model.graph.node if node.op_type != "Erf" for name in node.input}
    elsewhere |= {value.name for value in model.graph.output}
    rewritten = 0
    for node in model.graph.node:
        if node.op_type not in ("Div", "Sub") or node.input[1] not in constants or node.output[0] not in elsewhere:
            continue
        value = numpy_helper.to_array(constants[node.input[1]])
        if value.dtype != np.float32 or value.size != 1:
            continue
        inverse = _inverse(node.op_type, value)
        if not np.isfinite(inverse).all():
            continue
        name = f"edgekd.{node.output[0]}.{'reciprocal' if node.op_type == 'Div' else 'negative'}"
        model.graph.initializer.append(numpy_helper.from_array(inverse, name))
        node.op_type = "Mul" if node.op_type == "Div" else "Add"
        node.input[1] = name
        rewritten += 1
    return rewritten


def _inverse(op_type: str, value: NDArray[np.float32]) -> NDArray[np.float32]:
    if op_type == "Sub":
        return np.asarray(-value)
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(np.float32(1) / value)
