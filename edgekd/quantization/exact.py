"""The exact integers behind a quantized file: which layers multiply 8-bit weights, and in what order.

A QDQ file describes integer arithmetic in float terms; what runs is decided when onnxruntime opens the file. This
module answers, without opening it: which nodes become integer layers, which 8-bit weights each of them multiplies,
and how its kernel lines these weights up. Where the file alone does not settle it, a layer is named rather than
left out.

The rules are those of `core/optimizer/qdq_transformer/` of onnxruntime (`selectors_actions/qdq_selectors.cc`,
`qdq_propagation.cc`, `qdq_s8_to_u8.cc`, `weight_bias_quantization.cc`), each measured in
`tests/quantization/test_kernels.py`:

- A Conv runs in integers if it reads a DequantizeLinear on both sides and its output goes to QuantizeLinear alone,
  past Relu or Clip which that makes redundant, or past a reshaping. Without it the Conv stays fp32.
- A MatMul or Gemm runs in integers with or without a QuantizeLinear behind it (MatMulIntegerToFloat, QGemm).
- int8 activations that come out of a QuantizeLinear are turned into uint8 on x86.
- A Conv or Gemm with *fp32* weights between DequantizeLinear and QuantizeLinear is quantized on loading, with one
  asymmetric scale for the whole tensor: leaving weights in fp32 does not keep such a layer in fp32. (A one-input
  `Sum` on either side does: it is an identity that no optimization removes.)
- ConvTranspose and Einsum stay fp32; ConvInteger multiplies in the order weights x activations, for which there is
  only the exact portable kernel; weight-only MatMuls become MatMulNBits and multiply in fp32.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekd.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

# Operators that hold integers themselves. For the activations, then for each weight: which inputs are the integers
# and their zero point, whose type is theirs; None where onnxruntime quantizes the activations to uint8 inside.
_Operand = tuple[int, int | None]
_OPERATORS: Final[dict[str, tuple[_Operand, ...]]] = {
    "QLinearConv": ((0, 2), (3, 5)),
    "QLinearMatMul": ((0, 2), (3, 5)),
    "QGemm": ((0, 2), (3, 5)),
    "MatMulInteger": ((0, 2), (1, 3)),
    "MatMulIntegerToFloat": ((0, 4), (1, 5)),
    "DynamicQuantizeMatMul": ((0, None), (1, 3)),
    "DynamicQuantizeLSTM": ((0, None), (1, 9), (2, 11)),
    "QAttention": ((0, 6), (1, 7)),
}
_FLOAT_OPERATORS: Final = ("Conv", "Gemm", "MatMul")
_CONVOLUTIONS: Final = ("Conv", "QLinearConv")
_MATRICES: Final = ("Gemm", "MatMul", *(name for name in _OPERATORS if name != "QLinearConv"))
_RESHAPES: Final = ("Identity", "Dropout", "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice")


@dataclass(frozen=True, kw_only=True)
class KernelLayout:
    """How a kernel reads a weight tensor: as rows, one for each dot product, in the order it multiplies them.

    Attributes:
        shape: Of the weight tensor.
        channel_axis: Its axis of output channels, the `axis` of a per-channel DequantizeLinear.
        order: The permutation that brings the tensor into kernel order, reduction last.
        length: Weights in a row: the reduction.
        depthwise: Whether the kernel is a depthwise convolution's, which multiplies in 32 bits.
    """

    shape: tuple[int, ...]
    channel_axis: int
    order: tuple[int, ...]
    length: int
    depthwise: bool = False

    @property
    def channels(self) -> int:
        """How many output channels there are. Stacked matrices have one row a matrix for each of them."""
        return self.shape[self.channel_axis]

    def view(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Return weights of shape `shape` as `(rows, length)`; row r belongs to channel `r % channels`."""
        return weights.transpose(self.order).reshape(-1, self.length)

    def unview(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return `(rows, length)` as a tensor of shape `shape`: the inverse of `view`."""
        ordered = rows.reshape([self.shape[axis] for axis in self.order])
        return np.ascontiguousarray(ordered.transpose(np.argsort(self.order)))


def reduction_order(op_type: str, attributes: Mapping[str, Any], shape: Sequence[int]) -> KernelLayout:
    """Return how the kernel of a node reads its weights.

    Convolutions read kernel positions first and input channels innermost (`ReorderFilter` in `qlinearconv.cc`,
    `MlasConvSymPackW` in `convsym.cpp`), whatever stride, dilation or padding; matrices are read along the
    reduction (`MlasGemmPackB`). Every kernel block is a multiple of four weights, so neighbours are never parted.

    Args:
        op_type: Conv, Gemm, MatMul, or one of their integer forms.
        attributes: Those of the node; `group` and `transB` matter.
        shape: Of the weights: `(out, in / group, *kernel)` for convolutions, else `(..., in, out)`, with `transB`
            `(out, in)`.

    Raises:
        ModelError: no such operator, or weights of a shape it cannot have.
    """
    dims = tuple(shape)
    rank = len(dims)
    if op_type in _CONVOLUTIONS and rank >= 3:
        order = (0, *range(2, rank), 1)
        depthwise = dims[1] == 1 and dims[0] == attributes.get("group", 1)
        return KernelLayout(shape=dims, channel_axis=0, order=order, length=math.prod(dims[1:]), depthwise=depthwise)
    if op_type in ("Gemm", "QGemm") and rank == 2 and attributes.get("transB", 0):
        return KernelLayout(shape=dims, channel_axis=0, order=(0, 1), length=dims[1])
    if op_type in _MATRICES and rank >= 2:
        order = (*range(rank - 2), rank - 1, rank - 2)
        return KernelLayout(shape=dims, channel_axis=rank - 1, order=order, length=dims[-2])
    raise ModelError(f"{op_type} with weights of shape {list(dims)}: no integer kernel has this")


@dataclass(frozen=True, kw_only=True)
class IntegerLayer:
    """A layer that multiplies 8-bit weights.

    Attributes:
        name: Of its node; of the node's output where that has none.
        op_type: Of its node.
        tensor: Name of the weights: the integers for an integer operator, what the node reads for a QDQ one.
        layout: How the kernel reads them; None where their shape is not in the file.
        values: The integers, of shape `layout.shape`; None where they are not in the file (computed at run time).
        activations: Integer type that the kernel sees on x86.
        source: `"file"`, or `"runtime"` where the file holds fp32 weights and onnxruntime quantizes them itself.
    """

    name: str
    op_type: str
    tensor: str
    layout: KernelLayout | None
    values: NDArray[np.int8] | NDArray[np.uint8] | None
    activations: Literal["uint8", "int8"]
    source: Literal["file", "runtime"] = "file"


def integer_layers(model: onnx.ModelProto) -> list[IntegerLayer]:
    """Return the layers of a QDQ, QOperator or dynamically quantized model that multiply 8-bit weights.

    Nodes are visited in order, sub-graphs behind the node that holds them. Products of two uint8 activations are
    no layers: they have no weights, and an exact kernel.

    Raises:
        ModelError: weights have a shape that their operator cannot have.
    """
    return list(_layers(_Graph(model.graph)))


class _Graph:
    """Who makes, who reads and what is constant in a graph; constants of the graphs around it count."""

    def __init__(self, graph: onnx.GraphProto, outer: _Graph | None = None) -> None:
        self.nodes = graph.node
        self.outer = outer
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.input_types = {value.name: value.type.tensor_type.elem_type for value in graph.input}

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return the value of a tensor that does not depend on the input, as far as weights need it."""
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        node = self.makers.get(name)
        if node is None:
            return None if self.outer is None else self.outer.constant(name)
        if node.op_type == "Constant":
            return next((numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"), None)
        if node.op_type == "QuantizeLinear":
            return self._quantized(node)
        return self._reordered(node, self.constant)

    def integers(self, name: str) -> NDArray[Any] | None:
        """Return the constant integers behind a float tensor: those its DequantizeLinear reads."""
        node = self.makers.get(name)
        if node is None:
            return None
        if node.op_type == "DequantizeLinear":
            return None if _attributes(node).get("block_size") else self.constant(node.input[0])
        return self._reordered(node, self.integers)

    def dequantizer(self, name: str) -> onnx.NodeProto | None:
        """Return the DequantizeLinear that a float tensor comes from, past reshapings."""
        node = self.makers.get(name)
        while node is not None and node.op_type in _RESHAPES:
            node = self.makers.get(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def integer_type(self, name: str, zero_point: str = "") -> str | None:
        """Return the type of an integer tensor, `"int8"` or another; None where the graph does not tell."""
        zero = self.constant(zero_point) if zero_point else None
        node = self.makers.get(name)
        if zero is not None:
            return zero.dtype.name
        if name in self.initializers:
            return _type_name(self.initializers[name].data_type)
        if node is None:
            return _type_name(self.input_types[name]) if name in self.input_types else None
        if node.op_type in _RESHAPES:
            return self.integer_type(node.input[0])
        if node.op_type == "QuantizeLinear":
            return self._quantized_type(node)
        return "uint8" if node.op_type == "DynamicQuantizeLinear" else None

    def type_in_kernel(self, dequantizer: onnx.NodeProto) -> str | None:
        """Return the type in which x86 kernels see what a DequantizeLinear reads; None where it is not known.

        int8 straight from a QuantizeLinear becomes uint8 there.
        """
        kind = self.integer_type(*_operand(dequantizer, 0, 2))
        node = self.makers.get(dequantizer.input[0])
        while node is not None and node.op_type in _RESHAPES:
            node = self.makers.get(node.input[0])
        return "uint8" if kind == "int8" and node is not None and node.op_type == "QuantizeLinear" else kind

    def is_quantized(self, name: str) -> bool:
        """Return whether a tensor goes to QuantizeLinear alone, with one scale and zero point."""
        return len({self._parameters(node) for node in self._quantizers(name)}) == 1

    def _quantizers(self, name: str) -> list[onnx.NodeProto]:
        """Return the QuantizeLinear nodes that a tensor goes to; none if it goes elsewhere too."""
        found = []
        for node in self.readers[name]:
            if node.op_type == "Shape":
                continue
            if node.op_type == "QuantizeLinear":
                reached = [node]
            elif node.op_type in (*_RESHAPES, "Relu", "Clip"):
                reached = self._quantizers(node.output[0])
                if not all(self._made_redundant(node, quantizer) for quantizer in reached):
                    return []
            else:
                reached = []
            if not reached:
                return []
            found += reached
        return [] if name in self.outputs else found

    def _parameters(self, quantizer: onnx.NodeProto) -> tuple[bytes | str, ...]:
        values = [(name, self.constant(name)) for name in quantizer.input[1:]]
        return tuple(name if value is None else value.tobytes() for name, value in values)

    def _made_redundant(self, node: onnx.NodeProto, quantizer: onnx.NodeProto) -> bool:
        """Return whether quantizing clips at least as much as a Relu or Clip does; True where it is not known."""
        scale = self.constant(quantizer.input[1])
        kind = self._quantized_type(quantizer)
        if node.op_type in _RESHAPES or scale is None or scale.size != 1 or kind not in ("uint8", "int8"):
            return True
        zero = self.constant(quantizer.input[2]) if len(quantizer.input) > 2 else None
        point = 0 if zero is None else int(zero.item())
        if node.op_type == "Relu":
            return point == np.iinfo(kind).min
        bounds = [self.constant(name) if name else None for name in [*node.input[1:], "", ""][:2]]
        attributes = _attributes(node)
        low = attributes.get("min", -np.inf) if bounds[0] is None else bounds[0].item()
        high = attributes.get("max", np.inf) if bounds[1] is None else bounds[1].item()
        lowest, highest = np.rint(np.array([low, high]) / scale.item()) + point
        return bool(lowest <= np.iinfo(kind).min and highest >= np.iinfo(kind).max)

    def _reordered(self, node: onnx.NodeProto, source: Callable[[str], NDArray[Any] | None]) -> NDArray[Any] | None:
        """Return what `source` finds behind an Identity or a Transpose, in the order the latter gives it."""
        if node.op_type not in ("Identity", "Transpose"):
            return None
        found = source(node.input[0])
        if found is None or node.op_type == "Identity":
            return found
        turned: NDArray[Any] = found.transpose(_attributes(node).get("perm"))
        return turned

    def _quantized(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        """Return what a QuantizeLinear of constants gives: round half to even, then clip."""
        values, scale = self.constant(node.input[0]), self.constant(node.input[1])
        kind = self._quantized_type(node)
        if values is None or scale is None or kind not in ("uint8", "int8") or _attributes(node).get("block_size"):
            return None
        zero = self.constant(node.input[2]) if len(node.input) > 2 else None
        point = np.zeros_like(scale, dtype=np.int32) if zero is None else zero.astype(np.int32)
        if scale.size > 1:
            spread = [1] * values.ndim
            spread[_attributes(node).get("axis", 1)] = -1
            scale, point = scale.reshape(spread), point.reshape(spread)
        limits = np.iinfo(kind)
        rounded = np.rint(values.astype(np.float32) / scale) + point
        clipped: NDArray[Any] = np.clip(rounded, limits.min, limits.max).astype(kind)
        return clipped

    def _quantized_type(self, node: onnx.NodeProto) -> str | None:
        if len(node.input) > 2 and node.input[2]:
            zero = self.constant(node.input[2])
            return None if zero is None else zero.dtype.name
        return _type_name(_attributes(node).get("output_dtype", 0) or onnx.TensorProto.UINT8)


def _layers(graph: _Graph) -> Iterator[IntegerLayer]:
    for node in graph.nodes:
        if node.op_type in _OPERATORS:
            yield from _operator_layers(graph, node)
        elif node.op_type in _FLOAT_OPERATORS:
            layer = _qdq_layer(graph, node)
            if layer is not None:
                yield layer
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _layers(_Graph(inner, graph))


def _operator_layers(graph: _Graph, node: onnx.NodeProto) -> Iterator[IntegerLayer]:
    activations, *weights = _OPERATORS[node.op_type]
    signed = activations[1] is not None and graph.integer_type(*_operand(node, *activations)) == "int8"
    for operand in weights:
        tensor, zero_point = _operand(node, *operand)
        values = graph.constant(tensor)
        if values is not None or graph.integer_type(tensor, zero_point) != "uint8":
            yield _layer(node, tensor, values, "int8" if signed else "uint8")


def _qdq_layer(graph: _Graph, node: onnx.NodeProto) -> IntegerLayer | None:
    """Return the integer layer that onnxruntime makes of a Conv, Gemm or MatMul; None if it stays fp32."""
    source = graph.dequantizer(node.input[0])
    kind = None if source is None else graph.type_in_kernel(source) or "uint8"
    if kind not in ("uint8", "int8"):
        return None
    quantized = graph.is_quantized(node.output[0])
    if node.op_type == "Conv" and not quantized:
        return None
    seen: Literal["uint8", "int8"] = "int8" if kind == "int8" else "uint8"
    tensor = node.input[1]
    values = graph.integers(tensor)
    if values is not None:
        return _layer(node, tensor, values, seen) if values.dtype in (np.int8, np.uint8) else None
    weights = graph.dequantizer(tensor)
    if weights is not None:
        signed = graph.type_in_kernel(weights) in ("int8", None)
        return _layer(node, tensor, None, seen) if signed and not _attributes(weights).get("block_size") else None
    floats = graph.constant(tensor)
    if floats is None or floats.dtype != np.float32 or node.op_type == "MatMul" or not quantized:
        return None
    return _layer(node, tensor, quantized_on_loading(floats), seen, "runtime")


def _layer(
    node: onnx.NodeProto,
    tensor: str,
    values: NDArray[Any] | None,
    activations: Literal["uint8", "int8"],
    source: Literal["file", "runtime"] = "file",
) -> IntegerLayer:
    if values is not None and values.ndim == 1:
        values = values[:, None]  # a vector multiplies as a matrix of one column
    return IntegerLayer(
        name=node.name or node.output[0],
        op_type=node.op_type,
        tensor=tensor,
        layout=None if values is None else reduction_order(node.op_type, _attributes(node), values.shape),
        values=values,
        activations=activations,
        source=source,
    )


def quantized_on_loading(weights: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return the integers that onnxruntime makes of fp32 weights between DequantizeLinear and QuantizeLinear.

    One asymmetric scale for the tensor, range -128..127, 0 exact (`GetQuantizationParameter` in
    `core/util/qmath.h`, called by `weight_bias_quantization.cc`).
    """
    low, high = np.minimum(weights.min(), np.float32(0)), np.maximum(weights.max(), np.float32(0))
    scale = (high - low) / np.float32(255) if high > low else np.float32(1)
    zero = np.rint(np.clip(np.float32(-128) - low / scale, -128, 127))
    values: NDArray[np.int8] = np.clip(np.rint(weights / scale) + zero, -128, 127).astype(np.int8)
    return values


def _operand(node: onnx.NodeProto, index: int, zero_point: int | None) -> tuple[str, str]:
    """Return the names of an integer input and of its zero point, the latter empty where the node has none."""
    named = zero_point is not None and zero_point < len(node.input)
    return node.input[index], node.input[zero_point] if named and zero_point is not None else ""


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's numbers and lists of numbers; tensors and graphs are left out."""
    plain = (
        onnx.AttributeProto.INT,
        onnx.AttributeProto.INTS,
        onnx.AttributeProto.FLOAT,
        onnx.AttributeProto.FLOATS,
    )
    return {a.name: helper.get_attribute_value(a) for a in node.attribute if a.type in plain}


def _type_name(elem_type: int) -> str:
    name: str = onnx.TensorProto.DataType.Name(elem_type)
    return name.lower()
