"""Keep a layer in fp32 that onnxruntime would quantize by itself.

A Conv, ConvTranspose or Gemm with fp32 weights between DequantizeLinear and QuantizeLinear is quantized when the file
is opened, with one asymmetric scale for the whole tensor (`weight_bias_quantization.cc` in onnxruntime). A `Sum` of
one input in front of the layer is an identity that no optimization removes, and hides the DequantizeLinear from it.
It stands in front so that a Relu behind the layer can still become part of it; it costs one copy of the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import helper

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx

_OPERATORS = ("Conv", "ConvTranspose", "Gemm")
_MOVES = ("Flatten", "Identity", "MaxPool", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def guard(model: onnx.ModelProto, names: Collection[str]) -> int:
    """Put a one-input `Sum` in front of each named Conv, ConvTranspose and Gemm that reads dequantized activations.

    Requires: nodes sorted, names unique.
    Ensures: the same values; onnxruntime leaves these nodes in fp32.

    Returns:
        How many were guarded.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    found = [node for node in graph.node if node.name in names and node.op_type in _OPERATORS]
    guarded = [node for node in found if _is_dequantized(node.input[0], makers)]
    for node in guarded:
        name = f"edgekd.{node.name}.guard"
        keeper = helper.make_node("Sum", [node.input[0]], [name], name)
        node.input[0] = name
        graph.node.insert(list(graph.node).index(node), keeper)
    return len(guarded)


def _is_dequantized(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    """Return whether a value comes from a DequantizeLinear, past nodes that only move it."""
    node = makers.get(name)
    while node is not None and node.op_type in _MOVES:
        node = makers.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"
