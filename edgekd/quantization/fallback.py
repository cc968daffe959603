"""What stays in fp32: layers that are left there on purpose, and operations that gain nothing from integers.

A value is worth 8 bits where an integer layer reads or makes it. Between layers, an operation (a sum, a product, a
pooling) runs in integers if what it reads comes from integer layers; what comes from a layer in fp32, or straight
from the model's inputs, would have to be rounded first, and so stays in fp32 until a layer needs it. That keeps
normalising an image inside the model exact, and an attention mask of -1e9 out of any range.

A MatMul is an integer layer whose output is float32 for nothing: its kernel (MatMulIntegerToFloat) scales the sums at
once. So what follows it stays in fp32 too, up to the next layer. In a transformer that leaves 8 bits to the products
with weights, and keeps them from residual sums, attention masks, LayerNormalization and GELU, which do not survive
them. Products of two activations stay in fp32: both would have to be rounded first, and uint8 times uint8 is slow
on x86.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import onnx

from edgekd.graph.guard import guard
from edgekd.quantization.layers import OPERATORS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# Operators with an integer kernel behind a QDQ group, or that only move integers; and ConvTranspose, which computes
# in float32 but stores its weights in 8 bits. Left out, though onnxruntime's quantizer knows them, for their kernels
# compute in float32 and their few weights save nothing: BatchNormalization, CumSum, InstanceNormalization,
# LayerNormalization, TopK.
INTEGER_OPERATORS: Final = (
    *OPERATORS,
    *("Add", "ArgMax", "AveragePool", "Clip", "Concat", "ConvTranspose", "Flatten", "Gather", "GatherElements"),
    *("GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice"),
    *("Softmax", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where"),
)
_PROBABILITIES: Final = ("Sigmoid", "Softmax")


def fp32_nodes(model: onnx.ModelProto, layers: Collection[str] = ()) -> tuple[str, ...]:
    """Return the names of the nodes to leave in fp32, in the order of the graph.

    They are the named layers; products of two activations; operations that read a float32 value which comes from a
    MatMul, from one of the named layers, or from an input, with no other integer layer in between; and a Softmax or
    Sigmoid that gives an output of the model, whose small probabilities 8 bits would round to ties.

    Args:
        model: In fp32, nodes sorted and named, types of all values known.
        layers: Names of Conv, Gemm and MatMul nodes.
    """
    return _split(model, layers)[0]


def fp32_values(model: onnx.ModelProto, layers: Collection[str] = ()) -> set[str]:
    """Return the names of the values that stay float32 until a layer reads them; see `fp32_nodes`."""
    return _split(model, layers)[1]


def _split(model: onnx.ModelProto, layers: Collection[str]) -> tuple[tuple[str, ...], set[str]]:
    graph = model.graph
    known = [*graph.input, *graph.value_info, *graph.output]
    floats = {value.name for value in known if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    constants = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    exact = {value.name for value in graph.input} - constants  # values that nothing has rounded since a float kernel
    left = []
    for node in graph.node:
        read = {name for name in node.input if name} - constants
        if node.op_type in OPERATORS:
            stays = node.name in layers or (node.op_type == "MatMul" and len(read) > 1)
        else:
            ends = node.op_type in _PROBABILITIES and node.output[0] in outputs
            stays = ends or bool(read & exact & floats)
        if stays:
            left.append(node.name)
        if stays or node.op_type == "MatMul" or (node.op_type not in OPERATORS and read and read <= exact):
            exact |= set(node.output)
    return tuple(left), exact & floats


def keep_in_fp32(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Make sure that nodes left in fp32 read fp32 where there is any, and that onnxruntime leaves them alone.

    Where an integer layer reads a value too, onnxruntime's quantizer hands the rounded value to all.

    Requires: QDQ form, nodes sorted and named; `names` from `fp32_nodes`.
    Ensures: no Conv or Gemm among them, and no ConvTranspose, is quantized on loading.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    unrounded = {value.name for value in graph.input}
    unrounded |= {name for node in graph.node if node.name in names for name in node.output}
    for node in graph.node:
        if node.name in names:
            for index, name in enumerate(node.input):
                source = _unquantized(name, makers)
                if source in unrounded:
                    node.input[index] = source
    guard(model, names)


def _unquantized(name: str, makers: Mapping[str, onnx.NodeProto]) -> str | None:
    """Return the value behind a QuantizeLinear and a DequantizeLinear, or None."""
    dequantizer = makers.get(name)
    if dequantizer is None or dequantizer.op_type != "DequantizeLinear":
        return None
    quantizer = makers.get(dequantizer.input[0])
    return quantizer.input[0] if quantizer is not None and quantizer.op_type == "QuantizeLinear" else None
