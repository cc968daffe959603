"""The QDQ form of a model: onnxruntime's quantizer decides where integers go, within the bounds set here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from edgekd.graph.float_outputs import keep_float_outputs, removed_activations
from edgekd.graph.hard_sigmoid import hard_sigmoid_to_sum
from edgekd.graph.metadata import cap_ir_version
from edgekd.graph.order import sort_nodes
from edgekd.graph.traces import strip_traces
from edgekd.graph.unused import drop_unread_conversions, drop_unused_initializers
from edgekd.quantization.fallback import INTEGER_OPERATORS, fp32_nodes, keep_in_fp32
from edgekd.quantization.layers import OPERATORS
from edgekd.quantization.tables import quantize_tables, table_lookups

if TYPE_CHECKING:
    from collections.abc import Collection

    from edgekd.quantization.calibration import Ranges
    from edgekd.targets import Target


def to_qdq(model: onnx.ModelProto, ranges: Ranges, target: Target, fp32: Collection[str] = ()) -> onnx.ModelProto:
    """Return a copy of the model with QDQ nodes, one weight scale per channel.

    Where adjacent products are summed in int16, weights take 7 bits: 2 * 255 * 64 = 32,640 fits. That is the last
    resort, for the few weights that are not replaced afterwards.

    Args:
        model: In fp32: constants folded, shapes inferred, every node named.
        ranges: Of every float activation.
        target: What it is for.
        fp32: Names of layers (Conv, Gemm, MatMul) to leave in fp32.

    Ensures: weights of the other layers stored in 8 bits; nodes sorted; `ir_version <= 10`; no exporter traces.
    """
    left = fp32_nodes(model, fp32)
    lookups = table_lookups(model)
    quantized = _quantized(model, ranges, target, {*left, *lookups})
    sort_nodes(quantized)
    quantize_tables(quantized, lookups)
    keep_in_fp32(quantized, left)
    integers = {node.name for node in quantized.graph.node if node.op_type in INTEGER_OPERATORS} - set(left)
    activations = removed_activations(model, quantized)
    _bring_back(
        quantized, model, {name for chain in activations.values() for node in chain for name in node.input[1:]}
    )
    keep_float_outputs(quantized, integers, activations)
    hard_sigmoid_to_sum(quantized)
    drop_unread_conversions(quantized)
    drop_unused_initializers(quantized)
    strip_traces(quantized)
    cap_ir_version(quantized)
    return quantized


def _quantized(model: onnx.ModelProto, ranges: Ranges, target: Target, excluded: Collection[str]) -> onnx.ModelProto:
    """Return what onnxruntime's quantizer makes of a copy of the model."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    measured = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=target.pairs_saturate,
        weight_qType=types[target.weights],
        activation_qType=types[target.activations],
        tensors_range=TensorsData(CalibrationMethod.MinMax, measured),
        nodes_to_quantize=[],
        nodes_to_exclude=list(excluded),
        op_types_to_quantize=list(INTEGER_OPERATORS),
        extra_options={},
    )
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _bring_back(quantized: onnx.ModelProto, model: onnx.ModelProto, names: Collection[str]) -> None:
    """Copy the initializers of these names that onnxruntime's quantizer removed with the nodes that read them."""
    present = {tensor.name for tensor in quantized.graph.initializer}
    missing = [t for t in model.graph.initializer if t.name in names and t.name not in present]
    quantized.graph.initializer.extend(missing)


def fp32_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of the Conv, Gemm and MatMul nodes that do not read dequantized weights."""
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return tuple(
        node.name for node in model.graph.node if node.op_type in OPERATORS and not {*node.input[:2]} <= dequantized
    )
