"""Dynamic INT8: weights stored in 8 bits, activations quantized anew at every run, by what they are.

No calibration data are needed, and outliers of one input do no harm to another. The price: the range of every layer's
input is looked for at run time, and it is that of the whole batch, so that *a sample's answer depends on the samples
beside it*. What is scored here is therefore one sample at a time, as on a device.

Matrices alone are quantized (MatMul and Gemm with weights in the file): onnxruntime's dynamic convolution has only a
portable kernel, slower than fp32. Products of two activations stay in fp32. onnxruntime's quantizer writes the graph;
the weights in it are replaced by such as cannot saturate on the target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import onnx
from onnx import numpy_helper

from edgekd.errors import ModelError
from edgekd.graph.metadata import cap_ir_version, write_metadata
from edgekd.graph.names import name_nodes
from edgekd.graph.order import sort_nodes
from edgekd.graph.traces import strip_traces
from edgekd.graph.unused import drop_unused_initializers
from edgekd.quantization.job import Job
from edgekd.quantization.layers import find_layers
from edgekd.quantization.weights import quantize_weights

if TYPE_CHECKING:
    from edgekd.quantization.layers import Layer
    from edgekd.quantization.result import Quantized
    from edgekd.targets import Target


class DynamicQuantization(Job):
    """One model, from which dynamic INT8 files for any number of targets are made."""

    operators = ("Gemm", "MatMul")
    judged_at_once = 1

    def make(self, target: Target, path: str | None) -> Quantized:
        """Return the file for a target, unwritten; `path` is what its evaluation calls it.

        Raises:
            ModelError: it has no matrix of weights.
        """
        path = path or self._name
        model = _integer_matrices(self._folded, target)
        if not any(node.op_type == "MatMulInteger" for node in model.graph.node):
            raise ModelError(
                f"{self._name}: nothing to quantize: none of its Gemm and MatMul has weights in the file"
            )
        write_metadata(model, {"edgekd.target": target.name, "edgekd.mode": "dynamic", **self._metadata})
        content: bytes = model.SerializeToString(deterministic=True)
        return self._describe(
            content,
            target,
            path,
            effective={
                "mode": "dynamic",
                "target": target.name,
                "activations": "uint8",
                "weights": "int8",
                "scales": "pair-safe" if target.pairs_saturate else "full",
                "per_channel": True,
                "batch_dependent": True,
            },
            evaluation=self._judge(content, path, self._progress),
            speed=self._timed(content, target, path),
        )


def _integer_matrices(folded: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """Return a copy of a folded model with MatMulInteger behind DynamicQuantizeLinear.

    Ensures: nodes sorted and named; `ir_version <= 10`; no exporter traces; pairs of weights safe where the target
    sums them in 16 bits.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel

    copy = onnx.ModelProto()
    copy.CopyFrom(folded)
    plain = ONNXModel(copy)
    plain.replace_gemm_with_matmul()
    name_nodes(plain.model)
    layers = [layer for layer in find_layers(plain.model) if layer.op_type == "MatMul"]
    model = _quantized(plain.model, target)
    _replace_weights(model, layers, target)
    sort_nodes(model)
    drop_unused_initializers(model)
    strip_traces(model)
    cap_ir_version(model)
    return model


def _quantized(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """Return what onnxruntime's quantizer makes of a model; 7-bit weights, for now, where pairs can saturate."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.quant_utils import QuantizationMode

    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    matrices = [n for n in model.graph.node if n.op_type == "MatMul"]
    quantizer = ONNXQuantizer(
        model,
        per_channel=True,
        reduce_range=target.pairs_saturate,
        mode=QuantizationMode.IntegerOps,
        static=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=None,
        nodes_to_quantize=[],
        nodes_to_exclude=[node.name for node in matrices if ranks.get(node.input[1], 2) != 2],
        op_types_to_quantize=["MatMul"],
        extra_options={"MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _replace_weights(model: onnx.ModelProto, layers: list[Layer], target: Target) -> None:
    """Replace the integers and scales that onnxruntime's quantizer wrote by ours."""
    rule: Literal["pair-safe", "full"] = "pair-safe" if target.pairs_saturate else "full"
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in layers:
        integers, scale = tensors.get(f"{layer.weight}_quantized"), tensors.get(f"{layer.weight}_scale")
        if integers is None or scale is None:
            continue
        chosen = quantize_weights(layer.weights, layer.layout, rule)
        integers.CopyFrom(numpy_helper.from_array(chosen.values, integers.name))
        scale.CopyFrom(numpy_helper.from_array(chosen.scales, scale.name))
