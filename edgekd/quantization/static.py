"""Static INT8: weights and activations quantized once, from calibration data, for a target.

The way of a model: constants and batch normalisation are folded, and operators rewritten into such as have integer
kernels; calibration samples set the range of every activation and the moments of every layer's input; onnxruntime's
quantizer writes the QDQ form; then the weights are replaced by better ones: scales at which no pair of products can
saturate where the target sums pairs in 16 bits (`weights.py`), integers rounded with the errors in view
(`rounding.py`), biases that make good what is left of the mean error (`correction.py`). Where accuracy drops too far,
layers stay in fp32 (`sensitivity.py`). A certificate says whether the file can saturate (`saturation.py`), an audit
what of it runs in integers (`audit.py`).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx

from edgekd.artifact import indented_json, write_bytes, write_files
from edgekd.errors import ModelError, UsageError
from edgekd.graph.folding import fold
from edgekd.graph.fusible import make_fusible
from edgekd.graph.metadata import write_metadata
from edgekd.progress import SILENT, Progress
from edgekd.quantization.audit import Audit, audit
from edgekd.quantization.calibration import RangeMethod, calibrate
from edgekd.quantization.correction import corrected_bias
from edgekd.quantization.costs import layer_costs
from edgekd.quantization.equalisation import equalise
from edgekd.quantization.layers import OPERATORS, Layer, QdqWeights, add_missing_biases, find_layers
from edgekd.quantization.moments import Moments, collect_moments
from edgekd.quantization.qdq import fp32_layers, to_qdq
from edgekd.quantization.rounding import round_with_feedback
from edgekd.quantization.saturation import Certificate, certify
from edgekd.quantization.sensitivity import Attempt, Search, keep_fewest, measure_sensitivities
from edgekd.quantization.weights import QuantizedWeights, WeightRanges, quantize_weights
from edgekd.runtime import open_model, open_samples, predict, read_self_contained
from edgekd.scoring import Evaluation, score
from edgekd.targets import Target, find_target

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgekd.data import Contract
    from edgekd.data.opening import DataLike
    from edgekd.data.samples import Samples

SCHEMA = "edgekd.quantization/1"
MANIFEST = "manifest.json"
MANIFEST_SCHEMA = "edgekd.quantized-files/1"
Rounding = Literal["gptq", "nearest"]
BATCH_BYTES = 2**20  # of inputs; a network holds some fifty times as much in activations


@dataclass(frozen=True, kw_only=True)
class Method:
    """How 8 bits are chosen.

    Attributes:
        rounding: `"gptq"` rounds with the errors in view, `"nearest"` each weight for itself.
        bias_correction: Whether biases make good the mean error that rounding leaves.
        ranges: How the range of every activation is chosen; see `calibrate`.
        weight_ranges: How the scale of every channel of weights is chosen: `"max"` clips no weight, `"mse"` makes the
            squared error least (`least_squares_scales`). On EfficientNet-Lite0 that is worth 1.2 dB of SQNR with
            `"nearest"`; with `"gptq"`, which makes good most of what a coarse scale costs, 0.1 dB for AVX2, and
            between -0.2 and 0.2 dB on small students.
        equalisation: Whether channels between layers are scaled to like widths first; see `equalisation.py`.
    """

    rounding: Rounding = "gptq"
    bias_correction: bool = True
    ranges: RangeMethod = "minmax"
    weight_ranges: WeightRanges = "mse"
    equalisation: bool = True

    @property
    def needs_moments(self) -> bool:
        """Whether the inputs of layers have to be looked at."""
        return self.rounding == "gptq" or self.bias_correction


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """An INT8 model as bytes, and what is known of it.

    Attributes:
        content: The file.
        target: The instruction set it is for.
        effective: The settings that took effect.
        samples: Calibration samples used.
        fp32_layers: Layers (Conv, Gemm, MatMul) left in fp32, by node name.
        saturation: What the file's weights say of saturation on the target.
        audit: What of the file runs in integers on this machine.
        evaluation: Against the fp32 model, when evaluation data was given.
        max_drop: The gate, or None.
        search: How layers to keep in fp32 were searched for; None where none had to be.
    """

    content: bytes
    target: Target
    effective: Mapping[str, Any]
    samples: int
    fp32_layers: tuple[str, ...]
    saturation: Certificate
    audit: Audit
    evaluation: Evaluation | None = None
    max_drop: float | None = None
    search: Search | None = None

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
            "fp32_reason": None if self.search is None else self.search.reason,
            "mixed_precision": None if self.search is None else self.search.to_json(),
            "audit": self.audit.to_json(),
            "saturation": self.saturation.to_json(),
            "calibration": {"samples": self.samples, "method": self.effective["ranges"]},
            "gate": {"max_drop": self.max_drop, "met": self.gate_met},
            "evaluation": None if self.evaluation is None else self.evaluation.to_json(),
        }


def quantize(
    model: str | Path | bytes,
    calibration: DataLike,
    output: str | Path | None,
    *,
    target: str = "auto",
    method: Method | None = None,
    samples: int | None = None,
    evaluation: DataLike | None = None,
    max_drop: float | None = None,
    contract: Contract | None = None,
    labels: str = "folder",
    metadata: Mapping[str, str] | None = None,
    measure: bool = False,
    progress: Progress = SILENT,
) -> Quantized:
    """Quantize an fp32 ONNX model to static INT8 for a target, and write it.

    The file is written whether or not the gate is met; the result's `gate_met` says which. Where it would be missed
    with every layer in INT8, the layers that hurt most stay in fp32: as few as meet it (`sensitivity.py`).

    Args:
        model: A file, or the bytes of one.
        calibration: Data that sets the ranges; see `edgekd.evaluate` for its forms.
        output: The file to write; None to write none.
        target: Name of an instruction set (`edgekd.targets`); `"auto"` is this machine's.
        method: How 8 bits are chosen; the best by default.
        samples: At most so many calibration samples; all by default.
        evaluation: Data to score the result on, against the fp32 model.
        max_drop: The gate, judged on `evaluation`: largest loss of top-1 (of agreement without labels).
        contract: How images become inputs; by default what the model's own metadata say.
        labels: For folders of images: `"folder"`, `"prefix"` or the name of a CSV file.
        metadata: Further entries for the file; keys start with `edgekd.`.
        measure: Whether to measure what computes in fp32 nonetheless (`audit.py`); the times are this machine's.
        progress: Listener.

    Raises:
        ModelError: the model is missing, damaged, already quantized, or has nothing to quantize.
        DataError: data is missing, damaged or does not fit the model.
        UsageError: no such target, or a gate without data to judge it on.
        OutputError: the file cannot be written; an earlier one stays.
    """
    job = Quantization(
        model,
        calibration,
        method=method,
        samples=samples,
        evaluation=evaluation,
        max_drop=max_drop,
        contract=contract,
        labels=labels,
        metadata=metadata,
        measure=measure,
        progress=progress,
    )
    return job.write(target, output)


class Quantization:
    """One model and its calibration, from which files for any number of targets are made.

    The arguments are those of `quantize`.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        calibration: DataLike,
        *,
        method: Method | None = None,
        samples: int | None = None,
        evaluation: DataLike | None = None,
        max_drop: float | None = None,
        contract: Contract | None = None,
        labels: str = "folder",
        metadata: Mapping[str, str] | None = None,
        measure: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        if samples is not None and samples < 1:
            raise UsageError(f"samples: expected 1 or more, got {samples}")
        method = method or Method()
        if max_drop is not None and evaluation is None:
            raise UsageError("max_drop is judged on evaluation data; name some with --evaluation")
        self._path = None if isinstance(model, bytes) else Path(model)
        self._name = "the model" if isinstance(model, bytes) else str(model)
        self._original = open_model(model, name=self._name)
        content = model if isinstance(model, bytes) else read_self_contained(model)
        data = open_samples(self._original, calibration, contract=contract, labels=labels)
        self._judges: Samples | None = None
        if evaluation is not None:
            self._judges = open_samples(self._original, evaluation, contract=contract, labels=labels)
        folded = fold(content, self._name)
        _require_quantizable(folded, self._name)
        self._model = make_fusible(folded)
        self._method, self._max_drop, self._metadata, self._progress = method, max_drop, metadata or {}, progress
        self._data, self._measure = data, measure
        self._samples = min(len(data), samples or len(data))
        batch_size = _batch_size(data)
        if method.equalisation:
            equalise(self._model, data, name=self._name, limit=samples, batch_size=batch_size, progress=progress)
        self._ranges = calibrate(
            self._model,
            data,
            method=method.ranges,
            name=self._name,
            limit=samples,
            batch_size=batch_size,
            progress=progress,
        )
        if method.bias_correction:
            add_missing_biases(self._model)
        self._layers = find_layers(self._model)
        self._moments: dict[str, Moments] = {}
        if method.needs_moments:
            self._moments = collect_moments(
                self._model,
                self._layers,
                data,
                name=self._name,
                limit=samples,
                batch_size=batch_size,
                progress=progress,
            )
        self._chosen: dict[tuple[str, str, float], tuple[QuantizedWeights, NDArray[np.float32]]] = {}
        self._expected: NDArray[Any] | None = None

    def write(self, target: str, output: str | Path | None) -> Quantized:
        """Write the file for one target, or none if `output` is None.

        Raises:
            UsageError: `output` is the model itself.
        """
        if output is not None and self._path is not None and Path(output).exists() and self._path.samefile(output):
            raise UsageError(f"{output}: this is the fp32 model itself; name another file with -o")
        result = self.make(find_target(target), None if output is None else str(output))
        if output is not None:
            write_bytes(Path(output), result.content)
        return result

    def write_all(self, targets: Sequence[str], folder: str | Path) -> dict[Path, Quantized]:
        """Write `<stem>.<target>.onnx` for each target, and `manifest.json`: all of them or none.

        The manifest says which file is for which CPU.
        """
        chosen = list(dict.fromkeys(find_target(name) for name in targets))
        stem = Path(self._name).stem
        paths = {target: Path(folder) / f"{stem}.{target.name}.onnx" for target in chosen}
        results = {path: self.make(target, str(path)) for target, path in paths.items()}
        files = [
            {
                "target": result.target.name,
                "machine": result.target.machine,
                "file": path.name,
                "sha256": hashlib.sha256(result.content).hexdigest(),
                "saturation": result.saturation.to_json(worst=0),
            }
            for path, result in results.items()
        ]
        manifest = indented_json({"schema": MANIFEST_SCHEMA, "files": files})
        contents = {path: result.content for path, result in results.items()}
        write_files({**contents, Path(folder) / MANIFEST: manifest})
        return results

    def make(self, target: Target, path: str | None) -> Quantized:
        """Return the file for a target, unwritten; `path` is what its evaluation calls it.

        Where all layers in INT8 miss the gate, those that hurt most stay in fp32.
        """
        path = path or self._name
        content = self._content(target, frozenset(), self._progress)
        evaluation = self._judge(content, path, self._progress)
        search = None
        if self._max_drop is not None and evaluation is not None and evaluation.drop > self._max_drop:
            full = Attempt(fp32=frozenset(), content=content, evaluation=evaluation)
            search = self._search(target, full, path, self._max_drop)
            content, evaluation = search.best.content, search.best.evaluation
            self._progress.note(search.reason)
        model = onnx.load_from_string(content)
        return Quantized(
            content=content,
            target=target,
            effective={
                "target": target.name,
                "activations": target.activations,
                "weights": target.weights,
                "scales": "pair-safe" if target.pairs_saturate else "full",
                "per_channel": True,
                "format": "QDQ",
                **asdict(self._method),
            },
            samples=self._samples,
            fp32_layers=fp32_layers(model),
            saturation=certify(model, target),
            audit=audit(content, name=path, samples=self._data if self._measure else None),
            evaluation=evaluation,
            max_drop=self._max_drop,
            search=search,
        )

    def _content(self, target: Target, fp32: Collection[str], progress: Progress) -> bytes:
        """Return the file for a target with the layers of these names in fp32."""
        quantized = to_qdq(self._model, self._ranges, target, fp32)
        self._improve(quantized, target, progress)
        write_metadata(quantized, {"edgekd.target": target.name, **self._metadata})
        content: bytes = quantized.SerializeToString(deterministic=True)
        return content

    def _search(self, target: Target, full: Attempt, path: str, max_drop: float) -> Search:
        """Return the file with the fewest layers in fp32 that meets the gate, or the best attempt."""
        never = fp32_layers(onnx.load_from_string(full.content))
        costs = [cost for cost in layer_costs(self._model) if cost.layer not in never]
        names = frozenset(cost.layer for cost in costs)

        def attempt(fp32: frozenset[str]) -> Attempt:
            content = self._content(target, fp32, SILENT)
            evaluation = self._judge(content, path, SILENT)
            assert evaluation is not None
            return Attempt(fp32=fp32, content=content, evaluation=evaluation)

        sensitivities = measure_sensitivities(
            costs,
            lambda name: self._content(target, names - {name}, SILENT),
            self._original,
            self._data,
            limit=self._samples,
            progress=self._progress,
        )
        return keep_fewest(full, sensitivities, attempt, max_drop, progress=self._progress)

    def _improve(self, quantized: onnx.ModelProto, target: Target, progress: Progress) -> None:
        """Replace the weights and biases that onnxruntime's quantizer wrote by ours."""
        weights = QdqWeights(quantized)
        layers = [layer for layer in self._layers if weights.holds(layer)]
        with progress.task(f"round weights for {target.name}", len(layers)) as task:
            for layer in layers:
                scale = weights.input_scale(layer)
                key = (layer.name, target.name, scale)
                if key not in self._chosen:
                    self._chosen[key] = self._quantize_layer(layer, scale, target)
                weights.replace(layer, *self._chosen[key])
                task.advance(1, layer.name)

    def _quantize_layer(
        self, layer: Layer, input_scale: float, target: Target
    ) -> tuple[QuantizedWeights, NDArray[np.float32]]:
        """Return a layer's 8-bit weights and the bias that goes with them."""
        rule: Literal["pair-safe", "full"] = "pair-safe" if target.pairs_saturate else "full"
        moments = self._moments.get(layer.name)
        chosen = quantize_weights(
            layer.weights,
            layer.layout,
            rule,
            ranges=self._method.weight_ranges,
            importance=None if moments is None else moments.power,
            bias=layer.bias_values,
            input_scale=input_scale,
        )
        if self._method.rounding == "gptq" and moments is not None:
            values = round_with_feedback(
                layer.rows,
                chosen.scales.reshape(layer.groups, -1),
                moments.square / moments.count,
                pairs=target.pairs_saturate and not layer.layout.depthwise,
            )
            chosen = replace(chosen, values=layer.layout.unview(values.reshape(-1, layer.layout.length)))
        if not self._method.bias_correction or moments is None:
            return chosen, layer.bias_values
        return chosen, corrected_bias(layer, chosen, moments, input_scale)

    def _judge(self, content: bytes, path: str, progress: Progress) -> Evaluation | None:
        if self._judges is None:
            return None
        if self._expected is None:
            self._expected = predict(self._original, self._judges, title="evaluate fp32", progress=progress)
        outputs = predict(open_model(content, name=path), self._judges, title="evaluate int8", progress=progress)
        digest = hashlib.sha256(content).hexdigest()
        return score(path, digest, outputs, self._judges.labels, self._expected)


def _batch_size(data: Samples) -> int:
    """Return how many samples to run at a time: what fits into `BATCH_BYTES` of inputs, at most 16."""
    size = sum(array.nbytes for array in data.batch([0]).values())
    return max(1, min(16, BATCH_BYTES // max(size, 1)))


def _require_quantizable(model: onnx.ModelProto, name: str) -> None:
    types = {node.op_type for node in model.graph.node}
    if "QuantizeLinear" in types or "DynamicQuantizeLinear" in types:
        raise ModelError(f"{name}: this model is quantized already; quantize the fp32 model it was made from")
    if not types & set(OPERATORS):
        raise ModelError(f"{name}: nothing to quantize: it has no {', '.join(OPERATORS)}")
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    if any(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16 for value in values):
        raise ModelError(f"{name}: it holds float16 activations; quantize the float32 model it was made from")
