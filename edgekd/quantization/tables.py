"""Embedding tables in 8 bits, one scale for each column.

A table that Gather looks rows up in multiplies nothing, so that no kernel limits it to one scale or to 7 bits, as
onnxruntime's quantizer does (with `reduce_range`; of what INT8 cost MiniLM in mean cosine, that was two fifths). The
rows are looked up as integers, and only they are dequantized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekd.graph.opset import default_opset
from edgekd.quantization.weights import floor_scales, round_rows, row_scales

if TYPE_CHECKING:
    from collections.abc import Mapping

_AXIS_OF_SCALES = 13  # DequantizeLinear has one from this opset on


def table_lookups(model: onnx.ModelProto) -> dict[str, str]:
    """Return the table by name of the Gather, for those that look rows up in a constant float32 matrix.

    Left out is a table that anything but such a Gather reads, and all below opset 13.

    Requires: shapes inferred, nodes named.
    """
    graph = model.graph
    if default_opset(model) < _AXIS_OF_SCALES:
        return {}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.input, *graph.value_info)}
    matrices = {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2
    }
    found, others = {}, {value.name for value in graph.output}
    for node in graph.node:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if node.op_type == "Gather" and node.input[0] in matrices and axis in (0, -2) and ranks.get(node.input[1]):
            found[node.name] = node.input[0]
        else:
            others |= set(node.input)
    return {name: table for name, table in found.items() if table not in others}


def quantize_tables(model: onnx.ModelProto, lookups: Mapping[str, str]) -> None:
    """Store tables in 8 bits, and dequantize what is looked up.

    Args:
        model: It is changed.
        lookups: From `table_lookups`; none of the nodes is quantized yet.

    Ensures: each value within half a step of its column, which is a 127th of the column's largest; nodes sorted.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for table in dict.fromkeys(lookups.values()):
        columns = numpy_helper.to_array(constants[table]).T
        scales = floor_scales(row_scales(columns, "full"))
        values = np.ascontiguousarray(round_rows(columns, scales).T)
        constants[table].CopyFrom(numpy_helper.from_array(values, table))
        graph.initializer.append(numpy_helper.from_array(scales, f"edgekd.{table}.scales"))
    for node in [node for node in graph.node if node.name in lookups]:
        table, output = node.input[0], node.output[0]
        node.output[0] = f"edgekd.{output}.integers"
        inputs = [node.output[0], f"edgekd.{table}.scales"]
        dequantizer = helper.make_node(
            "DequantizeLinear", inputs, [output], f"edgekd.{node.name}.dequantize", axis=-1
        )
        graph.node.insert(list(graph.node).index(node) + 1, dequantizer)
