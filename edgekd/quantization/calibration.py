"""Calibration: the range of every activation, from real samples, in memory that does not grow with their number.

A first pass over the samples finds the smallest and largest value of every activation inside the model itself, by
ReduceMin and ReduceMax, so that a batch leaves a few numbers for each. Where that is not the range wanted, a second
pass fills a histogram of each activation, from which `ranges.py` chooses. `"auto"` takes a third pass: it quantizes
each activation in every way, one at a time, and asks the nodes that read it how much they suffer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekd.artifact import Origin, find, indented_json, store
from edgekd.errors import ModelError, UsageError
from edgekd.quantization.histograms import collect_histograms
from edgekd.quantization.ranges import STEPS, Range, entropy_range, integer_grid, mse_range, percentile_range
from edgekd.quantization.watching import FETCHED_BYTES, Calibration, share_out, without_outputs
from edgekd.text import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from edgekd.quantization.histograms import Histogram

Ranges = dict[str, Range]
RangeMethod = Literal["minmax", "percentile", "entropy", "mse", "auto"]

CHOICES: Final[dict[str, Callable[[Histogram], Range]]] = {
    "percentile": percentile_range,
    "entropy": entropy_range,
    "mse": mse_range,
}
_PREFIX = "edgekd.range."
_REDUCTIONS = ("min.", "max.", "finite.")
_TRIAL = "edgekd.trial."


def calibrate(
    model: onnx.ModelProto,
    calibration: Calibration,
    *,
    method: RangeMethod = "minmax",
    cache: Path | None = None,
) -> Ranges:
    """Return the range of every float32 activation over the samples.

    Args:
        model: With shapes and types inferred.
        calibration: What the model runs over.
        method: `"minmax"` keeps all that was seen, `"percentile"` 99.99 % of it; `"entropy"` clips where that changes
            the distribution least, `"mse"` where the squared error is least; `"auto"` takes for each activation that
            one of the four from which the nodes that read it suffer least.
        cache: A folder that keeps ranges for the next call with the same model, samples, settings and library
            versions. What is damaged there is measured again.

    Raises:
        DataError: the samples do not fit the model.
        ModelError: the model fails, or an activation is NaN or infinite.
        UsageError: no such method.
        OutputError: the cache cannot be written.
    """
    known = get_args(RangeMethod)
    if method not in known:
        raise UsageError(f"unknown range method {method!r}{nearest(method, known)}; known: {', '.join(known)}")
    if cache is None:
        return _measure(model, calibration, method)
    origin = Origin(
        stage="calibrate",
        settings={"method": method, "samples": calibration.count, "batch_size": calibration.batch_size},
        parents={
            "model": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
            "samples": calibration.samples.fingerprint,
        },
        libraries=("numpy", "onnx", "onnxruntime"),
    )
    path = cache / f"{origin.key}.ranges.json"
    if find(path, origin) is not None:
        return {tensor: (low, high) for tensor, (low, high) in json.loads(path.read_bytes()).items()}
    ranges = _measure(model, calibration, method)
    store(path, indented_json(ranges), origin)
    return ranges


def _measure(model: onnx.ModelProto, calibration: Calibration, method: RangeMethod) -> Ranges:
    seen = minmax_ranges(model, calibration)
    if method == "minmax":
        return seen
    histograms = collect_histograms(model, seen, calibration)
    filled = {tensor: histogram for tensor, histogram in histograms.items() if histogram.low < histogram.high}
    if method != "auto":
        return seen | {tensor: CHOICES[method](histogram) for tensor, histogram in filled.items()}
    candidates = {
        tensor: [seen[tensor], *(choose(histogram) for choose in CHOICES.values())]
        for tensor, histogram in filled.items()
    }
    return seen | least_harmful(model, candidates, calibration)


def activations(model: onnx.ModelProto) -> list[str]:
    """Return the names of the float32 activations of the main graph, inputs and outputs included, in order.

    Requires: shapes and types inferred.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    known = [*graph.input, *graph.value_info, *graph.output]
    floats = {value.name for value in known if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    constants = {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    produced = [name for node in graph.node for name in node.output]
    ordered = dict.fromkeys([value.name for value in graph.input] + produced)
    return [name for name in ordered if name in floats - weights - constants]


def minmax_ranges(model: onnx.ModelProto, calibration: Calibration) -> Ranges:
    """Return the smallest and largest value of every float32 activation over the samples.

    Args:
        model: With shapes and types inferred.
        calibration: What the model runs over.

    Raises:
        DataError: the samples do not fit the model.
        ModelError: the model fails, or an activation is NaN, infinite or empty.
    """
    names = activations(model)
    watched = calibration.open(_with_reductions(model, names))
    outputs = [_PREFIX + kind + tensor for tensor in names for kind in _REDUCTIONS]
    low = np.full(len(names), np.inf)
    high = np.full(len(names), -np.inf)
    with calibration.progress.task("calibrate", calibration.count) as task:
        for feeds, count in calibration.feed(watched):
            found = np.array([value.item() for value in watched.run(feeds, outputs)])
            if not np.isfinite(found).all():
                number = int(np.flatnonzero(~np.isfinite(found))[0]) // len(_REDUCTIONS)
                bad, least, most = names[number], *found[3 * number : 3 * number + 2]
                what = "is empty (it has no elements)" if least > most else "is NaN or infinite"
                where = f"samples of {calibration.samples.name}"
                raise ModelError(f"{calibration.name}: the activation {bad!r} {what} for {where}")
            low, high = np.minimum(low, found[0::3]), np.maximum(high, found[1::3])
            task.advance(count)
    return {tensor: (float(a), float(b)) for tensor, a, b in zip(names, low, high, strict=True)}


def _with_reductions(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy that gives the `_REDUCTIONS` of each tensor instead of its own outputs.

    ReduceMin and ReduceMax of onnxruntime pass over most NaN (measured with 1.32: 190 of 250), so that x - x, which
    is 0 unless x is NaN or infinite, is summed beside them.
    """
    watched = without_outputs(model)
    for tensor in names:
        least, most, finite = (_PREFIX + kind + tensor for kind in _REDUCTIONS)
        nothing = finite + ".terms"
        watched.graph.node.append(helper.make_node("ReduceMin", [tensor], [least], keepdims=0))
        watched.graph.node.append(helper.make_node("ReduceMax", [tensor], [most], keepdims=0))
        watched.graph.node.append(helper.make_node("Sub", [tensor, tensor], [nothing]))
        watched.graph.node.append(helper.make_node("ReduceSum", [nothing], [finite], keepdims=0))
        for output in (least, most, finite):
            watched.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, []))
    return watched


def least_harmful(
    model: onnx.ModelProto,
    candidates: Mapping[str, Sequence[Range]],
    calibration: Calibration,
    *,
    most_bytes: int = FETCHED_BYTES,
) -> Ranges:
    """Return for each tensor that candidate with which the nodes that read it err least; the first of equals.

    A tensor is quantized alone, and the squared error of each output of its readers is measured relative to the
    squares of that output; the errors of several readers add up. The error of the tensor itself would judge badly:
    the few huge activations of a transformer (Sun et al. 2024, arXiv:2402.17762) are few enough to be clipped for its
    sake, and what they are worth shows only behind the weights that they meet. Errors that overflow float32 count
    as infinite.

    Memory: copies of the readers of one group of tensors at a time, see `share_out`.

    Args:
        model: With shapes and types inferred.
        candidates: Ranges to try by tensor, in the order of the graph.
        calibration: What the model runs over.
        most_bytes: Tensors judged together take at most so much, or there is only one of them.

    Raises:
        DataError: the samples do not fit the model.
        ModelError: the model fails.
    """
    rows, groups = share_out(model, list(candidates), calibration, most_bytes)
    chosen: Ranges = {}
    with calibration.progress.task("judge ranges", calibration.count * len(groups)) as task:
        for group in groups:
            trials = _Trials(model)
            for tensor in group:
                trials.add(tensor, candidates[tensor])
            opened = calibration.open(trials.model)
            for feeds, count in calibration.feed(opened, rows):
                trials.count(opened.run(feeds, trials.outputs))
                task.advance(count)
            for tensor in group:
                harms = trials.harms(tensor)
                chosen[tensor] = candidates[tensor][harms.index(min(harms))]
    return chosen


class _Trials:
    """A model with copies of the nodes that read a tensor, which see it quantized, and the errors that they make."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = without_outputs(model)
        self._floats = set(activations(model))
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for tensor in dict.fromkeys(node.input):
                self._readers[tensor].append(node)
        self._sums: dict[str, float] = {}
        self._errors: dict[str, list[list[tuple[str, str]]]] = {}  # by tensor and candidate: sums of error and signal

    @property
    def outputs(self) -> list[str]:
        """The outputs of `model`: sums over a batch."""
        return list(self._sums)

    def add(self, tensor: str, candidates: Sequence[Range]) -> None:
        """Add what tries the candidate ranges of a tensor."""
        self._errors[tensor] = []
        for index, bounds in enumerate(candidates):
            prefix = f"{_TRIAL}{index}.{tensor}"
            self._quantize(tensor, prefix, bounds)
            compared = list(self._compared(tensor, prefix))
            sums = [(self._square(self._difference(one, other)), self._square(other)) for one, other in compared]
            self._errors[tensor].append(sums)

    def count(self, found: Sequence[np.ndarray]) -> None:
        """Add the outputs for a batch to the sums."""
        for output, value in zip(self.outputs, found, strict=True):
            self._sums[output] += value.item()

    def harms(self, tensor: str) -> list[float]:
        """Return what the readers of a tensor suffer from each candidate, as a ratio of squares."""
        return [
            sum(_ratio(self._sums[error], self._sums[signal]) for error, signal in sums)
            for sums in self._errors[tensor]
        ]

    def _quantize(self, tensor: str, prefix: str, bounds: Range) -> None:
        """Quantize and dequantize a tensor in float operators, which onnxruntime does not fuse with layers."""
        scale, zero = integer_grid(*bounds)
        for suffix, value in ((".scale", scale), (".low", -zero), (".high", STEPS - zero)):
            constant = numpy_helper.from_array(np.array(value, np.float32), prefix + suffix)
            self.model.graph.initializer.append(constant)
        self._node("Div", [tensor, prefix + ".scale"], prefix + ".steps")
        self._node("Round", [prefix + ".steps"], prefix + ".rounded")
        self._node("Clip", [prefix + ".rounded", prefix + ".low", prefix + ".high"], prefix + ".clipped")
        self._node("Mul", [prefix + ".clipped", prefix + ".scale"], prefix)

    def _compared(self, tensor: str, quantized: str) -> Iterator[tuple[str, str]]:
        """Copy the readers of a tensor, and yield their float outputs beside the original ones.

        Where nobody reads it, or what is read from it is no float, the tensor itself is compared.
        """
        alone = True
        for number, reader in enumerate(self._readers[tensor]):
            outputs = [output for output in reader.output if output in self._floats]
            if not outputs or any(attribute.HasField("g") for attribute in reader.attribute):
                continue
            alone = False
            copy = self.model.graph.node.add()
            copy.CopyFrom(reader)
            copy.name = f"{quantized}.{number}"
            copy.input[:] = [quantized if given == tensor else given for given in reader.input]
            copy.output[:] = [f"{copy.name}.{output}" if output else "" for output in reader.output]
            yield from ((f"{copy.name}.{output}", output) for output in outputs)
        if alone:
            yield quantized, tensor

    def _difference(self, one: str, other: str) -> str:
        self._node("Sub", [one, other], f"{one}.error")
        return f"{one}.error"

    def _square(self, tensor: str) -> str:
        """Return the output that is the sum of a tensor's squares."""
        output = f"{_TRIAL}square.{tensor}"
        if output not in self._sums:
            self._sums[output] = 0.0
            self.model.graph.node.append(helper.make_node("ReduceSumSquare", [tensor], [output], keepdims=0))
            self.model.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, []))
        return output

    def _node(self, operator: str, inputs: Sequence[str], output: str) -> None:
        self.model.graph.node.append(helper.make_node(operator, inputs, [output]))


def _ratio(error: float, signal: float) -> float:
    if error == 0:
        return 0.0
    return error / signal if signal and math.isfinite(error) and math.isfinite(signal) else math.inf
