"""The layers of an fp32 model that take 8-bit weights, and how such weights get into its QDQ form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekd.quantization.exact import KernelLayout, reduction_order
from edgekd.quantization.weights import quantize_bias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgekd.quantization.weights import QuantizedWeights

OPERATORS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A Conv, Gemm or MatMul with constant float32 weights that no other node reads.

    Attributes:
        name: Of the node.
        op_type: Of the node.
        attributes: Of the node.
        input: Name of its activations.
        output: Name of its output.
        weight: Name of its weights.
        bias: Name of its bias, or None.
        layout: How the integer kernel reads the weights.
        weights: float32, of shape `layout.shape`.
        bias_values: float32, `(channels,)`; zeros where there is no bias.
    """

    name: str
    op_type: str
    attributes: Mapping[str, Any]
    input: str
    output: str
    weight: str
    bias: str | None
    layout: KernelLayout
    weights: NDArray[np.float32]
    bias_values: NDArray[np.float32]

    @property
    def groups(self) -> int:
        """Into how many groups input and output channels are parted."""
        return int(self.attributes.get("group", 1)) if self.op_type == "Conv" else 1

    @property
    def rows(self) -> NDArray[np.float32]:
        """The weights in kernel order by group, shape `(groups, channels / groups, length)`."""
        return self.layout.view(self.weights).reshape(self.groups, -1, self.layout.length)


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """Return the layers whose weights we choose ourselves, in the order of the graph.

    Left to onnxruntime's quantizer are weights that several nodes read or that are stacks of matrices, and a Gemm
    that scales its operands.

    Requires: constants folded.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    found = [_layer(node, constants) for node in model.graph.node if node.op_type in OPERATORS]
    return [layer for layer in found if layer is not None and readers[layer.weight] == 1]


def _layer(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Layer | None:
    weight = constants.get(node.input[1])
    if weight is None or weight.data_type != onnx.TensorProto.FLOAT or node.input[0] in constants:
        return None
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    scaled = any(attributes.get(key, 1) != 1 for key in ("alpha", "beta")) or attributes.get("transA", 0)
    if scaled or (node.op_type != "Conv" and len(weight.dims) != 2):
        return None
    layout = reduction_order(node.op_type, attributes, weight.dims)
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    values = np.zeros(layout.channels, np.float32)
    if bias is not None:
        if bias not in constants or tuple(constants[bias].dims) != (layout.channels,):
            return None
        values = numpy_helper.to_array(constants[bias])
    return Layer(
        name=node.name,
        op_type=node.op_type,
        attributes=attributes,
        input=node.input[0],
        output=node.output[0],
        weight=node.input[1],
        bias=bias,
        layout=layout,
        weights=numpy_helper.to_array(weight),
        bias_values=values,
    )


def add_missing_biases(model: onnx.ModelProto) -> int:
    """Give every Conv without a bias one of zeros, which a correction can then use; it costs nothing to run.

    Requires: constants folded.
    Ensures: every Conv with constant weights has three inputs.

    Returns:
        How many were added.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    bare = [n for n in model.graph.node if n.op_type == "Conv" and len(n.input) == 2 and n.input[1] in constants]
    for node in bare:
        name = f"{node.input[1]}_edgekd_bias"
        if name not in constants:
            zeros = np.zeros(constants[node.input[1]].dims[0], np.float32)
            constants[name] = numpy_helper.from_array(zeros, name)
            model.graph.initializer.append(constants[name])
        node.input.append(name)
    return len(bare)


class QdqWeights:
    """The 8-bit weights of a model in the QDQ form that onnxruntime's quantizer writes, to be replaced."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._dequantizers = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
        self._nodes = {node.name: node for node in model.graph.node}

    def input_scale(self, layer: Layer) -> float:
        """Return what one step of a layer's activations is worth; the layer is one that it `holds`."""
        dequantizer = self._dequantizers[self._nodes[layer.name].input[0]]
        return float(numpy_helper.to_array(self._initializers[dequantizer.input[1]]).item())

    def holds(self, layer: Layer) -> bool:
        """Return whether the layer reads quantized activations and weights."""
        node = self._nodes[layer.name]
        return all(name in self._dequantizers for name in node.input[:2])

    def replace(self, layer: Layer, weights: QuantizedWeights, bias: NDArray[np.float32]) -> None:
        """Set a layer's integers and scales, and its bias in the steps that go with them.

        Args:
            layer: One that `holds`.
            weights: The new weights.
            bias: float32, `(channels,)`; left out where the layer has none.
        """
        node = self._nodes[layer.name]
        self._set(self._dequantizers[node.input[1]], weights.values, weights.scales)
        if layer.bias is not None:
            input_scale = self.input_scale(layer)
            values = quantize_bias(bias, input_scale, weights.scales)
            self._set(self._dequantizers[node.input[2]], values, np.float32(input_scale) * weights.scales)

    def _set(self, dequantizer: onnx.NodeProto, values: NDArray[Any], scales: NDArray[np.float32]) -> None:
        for name, array in zip(dequantizer.input[:2], (values, scales), strict=True):
            self._initializers[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
