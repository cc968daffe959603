"""The door of quantization: what may be quantized, brought into the form that the other modules need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from edgekd.errors import ModelError
from edgekd.graph.folding import fold
from edgekd.graph.opset import raise_opset
from edgekd.quantization.layers import OPERATORS
from edgekd.runtime import parse_model

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

LEAST_OPSET = 13  # the first in which QuantizeLinear takes a scale for each channel
_OTHER_FLOATS = {onnx.TensorProto.BFLOAT16: "bfloat16", onnx.TensorProto.DOUBLE: "float64"}


def take_in(content: bytes, name: str, operators: Collection[str] = OPERATORS) -> onnx.ModelProto:
    """Return an fp32 model in opset 13 or later, folded, with shapes inferred.

    Args:
        content: A self-contained file that `open_model` opens.
        name: What messages call it.
        operators: Of the layers that can be made smaller.

    Raises:
        ModelError: it is quantized already, not in float32, has nothing to quantize, or cannot be brought into
            opset 13.
    """
    model = parse_model(content, name)
    _refuse_quantized(model, name)
    _fix_weights(model)
    folded = fold(raise_opset(model, LEAST_OPSET, name).SerializeToString(), name)
    _refuse_other_floats(folded, name)
    if not {node.op_type for node in folded.graph.node} & set(operators):
        raise ModelError(f"{name}: nothing to quantize: it has no {', '.join(operators)}")
    return folded


def _refuse_quantized(model: onnx.ModelProto, name: str) -> None:
    """Look before constants are folded: folding turns quantized weights back into float32 ones."""
    for node in _nodes(model.graph):
        kind = node.op_type
        if kind.startswith(("QLinear", "QGemm", "DynamicQuantize")) or kind.endswith(
            ("QuantizeLinear", "DequantizeLinear", "Integer", "IntegerToFloat", "NBits")
        ):
            raise ModelError(
                f"{name}: this model is quantized already (it has {kind}); quantize the fp32 model it was made from"
            )


def _refuse_other_floats(model: onnx.ModelProto, name: str) -> None:
    """Refuse float16 anywhere, and layers in bfloat16 or float64; apart from layers those two do no harm."""
    advice = "quantize the float32 model it was made from, or export it again in float32"
    graph = model.graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    values = (*graph.input, *graph.value_info, *graph.output)
    kinds |= {value.name: value.type.tensor_type.elem_type for value in values}
    if any(kinds[value.name] == onnx.TensorProto.FLOAT16 for value in values):
        raise ModelError(f"{name}: it holds float16 activations; {advice}")
    for node in graph.node:
        found = {kinds[value] for value in (*node.input, *node.output) if value in kinds} & set(_OTHER_FLOATS)
        if node.op_type in OPERATORS and found:
            width, layer = _OTHER_FLOATS[min(found)], node.name or node.op_type
            raise ModelError(f"{name}: it holds layers in {width}, such as {layer!r}; {advice}")


def _fix_weights(model: onnx.ModelProto) -> None:
    """Make weights constant that old exporters also list as inputs: a caller could replace them, and none does.

    The IR version 4 is the first in which a weight need not be an input.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
