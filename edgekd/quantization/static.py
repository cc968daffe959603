"""Static INT8: weights and activations quantized once, from calibration data, for a target.

The way of a model: constants and batch normalisation are folded, and operators rewritten into such as have integer
kernels; channels of like width are made of unlike ones (`equalisation.py`, `smoothing.py`); calibration samples set
the range of every activation and the moments of every layer's input; onnxruntime's quantizer writes the QDQ form;
then the weights are replaced by better ones: scales at which no pair of products can saturate where the target sums
pairs in 16 bits (`weights.py`), integers rounded with the errors in view (`rounding.py`), biases that make good what
is left of the mean error (`correction.py`). Where accuracy drops too far, layers stay in fp32 (`sensitivity.py`). A
certificate says whether the file can saturate (`saturation.py`), an audit what of it runs in integers (`audit.py`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np
import onnx

from edgekd.errors import ModelError, UsageError
from edgekd.graph.fusible import make_fusible
from edgekd.graph.metadata import write_metadata
from edgekd.inference import batch_size_for, feed
from edgekd.progress import SILENT, Progress
from edgekd.quantization.calibration import RangeMethod, calibrate
from edgekd.quantization.correction import corrected_bias
from edgekd.quantization.costs import layer_costs
from edgekd.quantization.equalisation import equalise
from edgekd.quantization.job import Job
from edgekd.quantization.layers import OPERATORS, Layer, QdqWeights, add_missing_biases, find_layers
from edgekd.quantization.moments import Moments, collect_moments
from edgekd.quantization.noise import weight_sqnr_db
from edgekd.quantization.qdq import fp32_layers, to_qdq
from edgekd.quantization.rounding import DAMPING, DAMPING_OF_PRODUCTS, round_with_feedback
from edgekd.quantization.sensitivity import Attempt, Search, keep_fewest, measure_sensitivities
from edgekd.quantization.slow_blocks import return_slow_blocks
from edgekd.quantization.smoothing import smooth
from edgekd.quantization.speed import compare_speed
from edgekd.quantization.synthetic import COUNT, SYNTHETIC, SYNTHETIC_WARNING, synthetic_samples
from edgekd.quantization.watching import Calibration
from edgekd.quantization.weights import QuantizedWeights, WeightRanges, quantize_weights
from edgekd.runtime import open_model

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from edgekd.benchmarking.statistics import PairedRatio
    from edgekd.data.opening import DataLike
    from edgekd.data.samples import Samples
    from edgekd.quantization.job import Common
    from edgekd.quantization.result import Quantized
    from edgekd.quantization.slow_blocks import Quickened
    from edgekd.targets import Target

LARGEST_CHANGE = 1e-3  # of an output by preparing the model, relative to it: float32's rounding stays far below
Rounding = Literal["gptq", "nearest"]


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
        smoothing: Whether inputs of MatMuls are scaled, and their weights inversely, where a few channels are much
            larger than the others, as in transformers; see `smoothing.py`.
    """

    rounding: Rounding = "gptq"
    bias_correction: bool = True
    ranges: RangeMethod = "mse"
    weight_ranges: WeightRanges = "mse"
    equalisation: bool = True
    smoothing: bool = True

    @property
    def needs_moments(self) -> bool:
        """Whether the inputs of layers have to be looked at."""
        return self.rounding == "gptq" or self.bias_correction


class Quantization(Job):
    """One model and its calibration, from which static INT8 files for any number of targets are made.

    The arguments are those of `edgekd.quantize`.
    """

    operators = OPERATORS

    def __init__(
        self,
        model: str | Path | bytes,
        calibration: DataLike,
        *,
        method: Method | None = None,
        samples: int | None = None,
        cache: str | Path | None = None,
        **common: Unpack[Common],
    ) -> None:
        if samples is not None and samples < 1:
            raise UsageError(f"samples: expected 1 or more, got {samples}")
        super().__init__(model, **common)
        self._method = method or Method()
        self._synthetic = isinstance(calibration, str) and calibration == SYNTHETIC
        self._data = self._made_up(samples) if self._synthetic else self._open(calibration)
        self._model = make_fusible(self._folded)
        self._require_same_answers()
        self._calibration = Calibration(
            samples=self._data,
            name=self._name,
            limit=samples,
            batch_size=batch_size_for(self._data),
            progress=self._progress,
        )
        if self._method.equalisation:
            equalise(self._model, self._calibration)
        if self._method.smoothing:
            smooth(self._model, self._calibration)
        kept = None if cache is None else Path(cache)
        self._ranges = calibrate(self._model, self._calibration, method=self._method.ranges, cache=kept)
        if self._method.bias_correction:
            add_missing_biases(self._model)
        self._layers = find_layers(self._model)
        self._moments: dict[str, Moments] = {}
        if self._method.needs_moments:
            self._moments = collect_moments(self._model, self._layers, self._calibration)
        self._chosen: dict[tuple[str, str, float], tuple[QuantizedWeights, NDArray[np.float32]]] = {}

    def _made_up(self, samples: int | None) -> Samples:
        made = synthetic_samples(self._original, self._contract, samples or COUNT)
        self._progress.note(f"calibration: {SYNTHETIC_WARNING}")
        return made

    def make(self, target: Target, path: str | None) -> Quantized:
        """Return the file for a target, unwritten; `path` is what its evaluation calls it.

        Where all layers in INT8 miss the gate, those that hurt most stay in fp32.
        """
        path = path or self._name
        content = self._content(target, frozenset(), self._progress)
        self._require_answers(content, path)
        evaluation = self._judge(content, path, self._progress)
        search = None
        if self._max_drop is not None and evaluation is not None and evaluation.drop > self._max_drop:
            full = Attempt(fp32=frozenset(), content=content, evaluation=evaluation)
            search = self._search(target, full, path, self._max_drop)
            content, evaluation = search.best.content, search.best.evaluation
            self._progress.note(search.reason)
        speed, quickened = self._timed(content, target, path), None
        if speed is not None and speed.ratio.verdict == "slower":
            kept = frozenset() if search is None else search.best.fp32
            quickened = self._quicken(content, speed.ratio, target, path, kept)
            if quickened.fp32:
                content, evaluation = quickened.content, self._judge(quickened.content, path, self._progress)
                speed = self._timed(content, target, path)
        return self._describe(
            content,
            target,
            path,
            effective={
                "mode": "static",
                "target": target.name,
                "activations": target.activations,
                "weights": target.weights,
                "scales": "pair-safe" if target.pairs_saturate else "full",
                "per_channel": True,
                "format": "QDQ",
                **asdict(self._method),
            },
            evaluation=evaluation,
            speed=speed,
            synthetic=self._synthetic,
            samples=self._calibration.count,
            search=search,
            quickened=quickened,
            layer_sqnr_db=self._layer_sqnr_db(target, content),
        )

    def _content(self, target: Target, fp32: Collection[str], progress: Progress) -> bytes:
        """Return the file for a target with the layers of these names in fp32."""
        quantized = to_qdq(self._model, self._ranges, target, fp32)
        self._improve(quantized, target, progress)
        write_metadata(quantized, {"edgekd.target": target.name, "edgekd.mode": "static", **self._provenance()})
        content: bytes = quantized.SerializeToString(deterministic=True)
        return content

    def _provenance(self) -> dict[str, str]:
        """Return what the file's metadata say besides its target and mode."""
        return {**({"edgekd.calibration": SYNTHETIC} if self._synthetic else {}), **self._metadata}

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
            limit=self._calibration.count,
            progress=self._progress,
        )
        return keep_fewest(full, sensitivities, attempt, max_drop, progress=self._progress)

    @property
    def _measured_with(self) -> Samples:
        """The calibration samples."""
        return self._data

    def _quicken(
        self, content: bytes, before: PairedRatio, target: Target, path: str, fp32: frozenset[str]
    ) -> Quickened:
        """Return the file, which is slower than the fp32 model, with its slow blocks in fp32."""
        never = fp32_layers(onnx.load_from_string(content))
        found = return_slow_blocks(
            content,
            before,
            [cost.layer for cost in layer_costs(self._model) if cost.layer not in never],
            lambda names: self._content(target, fp32 | names, SILENT),
            lambda file, other: compare_speed(file, other, self._data, name=path).ratio,
            progress=self._progress,
        )
        self._progress.note(found.reason)
        return found

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
                damping=DAMPING_OF_PRODUCTS if layer.op_type == "MatMul" else DAMPING,
            )
            chosen = replace(chosen, values=layer.layout.unview(values.reshape(-1, layer.layout.length)))
        if not self._method.bias_correction or moments is None:
            return chosen, layer.bias_values
        return chosen, corrected_bias(layer, chosen, moments, input_scale)

    def _layer_sqnr_db(self, target: Target, content: bytes) -> dict[str, float | None]:
        """Return what rounding its weights leaves of each INT8 layer's output, in the order of the graph."""
        weights = QdqWeights(onnx.load_from_string(content))
        found = {}
        for layer in self._layers:
            if weights.holds(layer):
                chosen, _ = self._chosen[layer.name, target.name, weights.input_scale(layer)]
                found[layer.name] = weight_sqnr_db(layer, chosen, self._moments.get(layer.name))
        return found

    def _require_same_answers(self) -> None:
        """Refuse a model that answers otherwise since it was prepared (a later opset, folding), by one sample."""
        prepared = open_model(self._model.SerializeToString(), name=self._name)
        feeds, _ = next(feed(self._original, self._data, 1, 1))
        floats = [spec.name for spec in self._original.outputs if spec.dtype == "tensor(float)"]
        pairs = zip(floats, self._original.run(feeds, floats), prepared.run(feeds, floats), strict=True)
        for output, expected, found in pairs:
            noise = np.square(np.subtract(found, expected, dtype=np.float64)).sum()
            if noise > LARGEST_CHANGE**2 * np.square(expected, dtype=np.float64).sum():
                raise ModelError(
                    f"{self._name}: its output {output!r} changes when onnx's converter and onnxruntime's optimizer "
                    "prepare it for 8 bits; export it again in opset 17 or later"
                )

    def _require_answers(self, content: bytes, path: str) -> None:
        """Refuse a file that onnxruntime does not load, or whose answers to a calibration sample are not finite."""
        opened = open_model(content, name=f"{path} (the INT8 file, not written)")
        feeds, _ = next(feed(opened, self._data, 1, 1))
        floats = [spec.name for spec in opened.outputs if spec.dtype == "tensor(float)"]
        for output, values in zip(floats, opened.run(feeds, floats), strict=True):
            if not np.isfinite(values).all():
                raise ModelError(
                    f"{opened.name}: its output {output!r} holds NaN or infinity, unlike that of the fp32 model; "
                    "export that again in a later opset, or calibrate with other samples"
                )
