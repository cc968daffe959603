"""Static INT8: weights and activations quantized once, from calibration data, in QDQ form."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.artifact import write_bytes
from edgekd.errors import ModelError, UsageError
from edgekd.graph.folding import fold
from edgekd.graph.metadata import cap_ir_version, write_metadata
from edgekd.graph.traces import strip_traces
from edgekd.progress import SILENT, Progress
from edgekd.quantization.calibration import Ranges, minmax_ranges
from edgekd.runtime import Model, open_model, open_samples, predict, read_model
from edgekd.scoring import Evaluation, score
from edgekd.targets import Target, find_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from edgekd.data import Contract
    from edgekd.data.opening import DataLike
    from edgekd.data.samples import Samples

SCHEMA = "edgekd.quantization/1"
QUANTIZED_TYPES = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """An INT8 model as bytes, and what is known of it.

    Attributes:
        content: The file.
        target: The instruction set it is for.
        effective: The settings that took effect.
        samples: Calibration samples used.
        fp32_layers: Layers (Conv, Gemm, MatMul) left in fp32, by node name.
        evaluation: Against the fp32 model, when evaluation data was given.
        max_drop: The gate, or None.
    """

    content: bytes
    target: Target
    effective: Mapping[str, Any]
    samples: int
    fp32_layers: tuple[str, ...]
    evaluation: Evaluation | None = None
    max_drop: float | None = None

    @property
    def gate_met(self) -> bool | None:
        """Whether the gate was met; None where nothing is gated."""
        if self.max_drop is None or self.evaluation is None:
            return None
        return self.evaluation.drop <= self.max_drop

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of the contract `edgekd.quantization/1`."""
        return {
            "schema": SCHEMA,
            "target": self.target.name,
            "effective": dict(self.effective),
            "fp32_layers": list(self.fp32_layers),
            "calibration": {"samples": self.samples, "method": "minmax"},
            "gate": {"max_drop": self.max_drop, "met": self.gate_met},
            "evaluation": None if self.evaluation is None else self.evaluation.to_json(),
        }


def quantize(
    model: str | Path | bytes,
    calibration: DataLike,
    output: str | Path | None,
    *,
    target: str = "auto",
    samples: int | None = None,
    evaluation: DataLike | None = None,
    max_drop: float | None = None,
    contract: Contract | None = None,
    labels: str = "folder",
    metadata: Mapping[str, str] | None = None,
    progress: Progress = SILENT,
) -> Quantized:
    """Quantize an fp32 ONNX model to static INT8 for a target, and write it.

    The file is written whether or not the gate is met; the result's `gate_met` says which.

    Args:
        model: A file, or the bytes of one.
        calibration: Data that sets the ranges; see `edgekd.evaluate` for its forms.
        output: The file to write; None to write none.
        target: Name of an instruction set (`edgekd.targets`); `"auto"` is this machine's.
        samples: At most so many calibration samples; all by default.
        evaluation: Data to score the result on, against the fp32 model.
        max_drop: The gate, judged on `evaluation`: largest loss of top-1 (of agreement without labels).
        contract: How images become inputs; by default what the model's own metadata say.
        labels: For folders of images: `"folder"`, `"prefix"` or the name of a CSV file.
        metadata: Further entries for the file; keys start with `edgekd.`.
        progress: Listener.

    Raises:
        ModelError: the model is missing, damaged, already quantized, or has nothing to quantize.
        DataError: data is missing, damaged or does not fit the model.
        UsageError: no such target, or a gate without data to judge it on.
        OutputError: the file cannot be written; an earlier one stays.
    """
    if max_drop is not None and evaluation is None:
        raise UsageError("max_drop is judged on evaluation data; name some with --evaluation")
    chosen = find_target(target)
    name = "the model" if isinstance(model, bytes) else str(model)
    content = model if isinstance(model, bytes) else read_model(model)
    original = open_model(content, name=name)
    data = open_samples(original, calibration, contract=contract, labels=labels)
    judges = None if evaluation is None else open_samples(original, evaluation, contract=contract, labels=labels)
    folded = fold(content, name)
    _require_quantizable(folded, name)
    ranges = minmax_ranges(folded, data, name=name, limit=samples, progress=progress)
    quantized = to_qdq(folded, ranges, chosen)
    write_metadata(quantized, {"edgekd.target": chosen.name, **(metadata or {})})
    result = quantized.SerializeToString(deterministic=True)
    scored = None
    if judges is not None:
        scored = _judge(result, original, judges, name if output is None else str(output), progress)
    if output is not None:
        write_bytes(Path(output), result)
    return Quantized(
        content=result,
        target=chosen,
        effective={
            "target": chosen.name,
            "activations": chosen.activations,
            "weights": chosen.weights,
            "weight_bits": 7 if chosen.pairs_saturate else 8,
            "per_channel": True,
            "format": "QDQ",
        },
        samples=min(len(data), samples or len(data)),
        fp32_layers=fp32_layers(quantized),
        evaluation=scored,
        max_drop=max_drop,
    )


def to_qdq(model: onnx.ModelProto, ranges: Ranges, target: Target) -> onnx.ModelProto:
    """Return the model with onnxruntime's QDQ nodes around what is quantized, one weight scale per channel.

    Where adjacent products are summed in int16, weights take 7 bits: 2 * 255 * 64 = 32,640 fits.

    Requires: constants folded, shapes inferred; a range for every float activation.
    Ensures: weights of Conv, Gemm and MatMul stored in 8 bits; `ir_version <= 10`; no exporter traces.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    measured = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=target.pairs_saturate,
        weight_qType=types[target.weights],
        activation_qType=types[target.activations],
        tensors_range=TensorsData(CalibrationMethod.MinMax, measured),
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({*QDQRegistry, *QLinearOpsRegistry}),
        extra_options={},
    )
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    strip_traces(quantized)
    cap_ir_version(quantized)
    return quantized


def fp32_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of the Conv, Gemm and MatMul nodes that do not read dequantized weights."""
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return tuple(
        node.name
        for node in model.graph.node
        if node.op_type in QUANTIZED_TYPES and not {*node.input[:2]} <= dequantized
    )


def _require_quantizable(model: onnx.ModelProto, name: str) -> None:
    types = {node.op_type for node in model.graph.node}
    if "QuantizeLinear" in types or "DynamicQuantizeLinear" in types:
        raise ModelError(f"{name}: this model is quantized already; quantize the fp32 model it was made from")
    if not types & set(QUANTIZED_TYPES):
        raise ModelError(f"{name}: nothing to quantize: it has no {', '.join(QUANTIZED_TYPES)}")


def _judge(content: bytes, original: Model, judges: Samples, name: str, progress: Progress) -> Evaluation:
    expected = predict(original, judges, title="evaluate fp32", progress=progress)
    outputs = predict(open_model(content, name=name), judges, title="evaluate int8", progress=progress)
    return score(name, hashlib.sha256(content).hexdigest(), outputs, judges.labels, expected)
