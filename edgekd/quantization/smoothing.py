"""Smoothing: scales between a value and the matrices that multiply it, so that no channel spoils 8 bits for the rest.

In a transformer a few channels of an activation are tens of times as large as the others (behind LayerNormalization,
and behind GELU in the feed-forward), and 8 bits with one scale are spent on them. SmoothQuant (Xiao et al. 2022,
arXiv:2211.10438) divides each channel c of the activation by s_c and multiplies its weights by s_c, which changes
nothing in float32, with

    s_c = largest |x_c| ** strength / size of the weights of c ** (1 - strength).

Ours differs in two ways. The size of the weights is their root mean square, as what counts is the error of the whole
output. And the strength is chosen for each activation: the one with which the outputs, computed from 8-bit inputs and
8-bit weights on samples, err least. An activation for which none halves the squared error is left alone.

Where only these matrices read the activation, its division is folded into a LayerNormalization or a product with a
constant that makes it. Elsewhere, as behind GELU or where a residual connection reads it too, a Mul stands in front.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekd.quantization.fallback import fp32_values
from edgekd.quantization.layers import Layer, find_layers
from edgekd.quantization.moments import input_rows
from edgekd.quantization.ranges import STEPS, integer_grid
from edgekd.quantization.watching import FETCHED_BYTES, share_out, watch
from edgekd.quantization.weights import floor_scales, round_rows, row_scales

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgekd.quantization.watching import Calibration

STRENGTHS: Final = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LEAST_GAIN: Final = 2.0  # by which the squared error has to fall
ROWS: Final = 512  # of each activation that strengths are tried on, about
_POSITIONS: Final = 8  # of a sample at least: the first alone is a token of its own kind


@dataclass(kw_only=True, eq=False)
class Inputs:
    """What was seen of an activation that MatMuls read.

    Attributes:
        low: Smallest value of each channel, float32, `(channels,)`.
        high: Largest value of each channel.
        kept: Rows that were kept, each `(rows, channels)`.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    kept: list[NDArray[np.float32]] = field(default_factory=list)

    @classmethod
    def empty(cls, channels: int) -> Inputs:
        """Return what is known before anything was seen; every range holds 0."""
        return cls(low=np.zeros(channels, np.float32), high=np.zeros(channels, np.float32))

    def add(self, values: NDArray[np.float32]) -> None:
        """Widen the ranges to values of shape `(..., channels)`."""
        flat = values.reshape(-1, values.shape[-1])
        self.low = np.minimum(self.low, flat.min(axis=0))
        self.high = np.maximum(self.high, flat.max(axis=0))

    @property
    def rows(self) -> NDArray[np.float32]:
        """The rows that were kept, `(rows, channels)`."""
        return np.concatenate(self.kept)


def smooth(model: onnx.ModelProto, calibration: Calibration) -> dict[str, float]:
    """Scale the inputs of MatMuls, and their weights inversely, where that makes 8 bits more accurate.

    Only activations that are float32 in the INT8 file too are touched; MatMuls that share one share its scales.

    Args:
        model: In fp32: constants folded, nodes sorted and named, shapes inferred. It is changed.
        calibration: What the model runs over.

    Returns:
        The strength by name of the activation, for those that were smoothed.

    Raises:
        DataError: the samples do not fit the model.
        ModelError: the model fails.
    """
    floats = fp32_values(model)
    groups: dict[str, list[Layer]] = defaultdict(list)
    for layer in find_layers(model):
        if layer.op_type == "MatMul" and layer.input in floats:
            groups[layer.input].append(layer)
    if not groups:
        return {}
    seen = _look(model, groups, calibration)
    strengths: dict[str, float] = {}
    with calibration.progress.task("smooth", len(groups)) as task:
        for tensor, layers in groups.items():
            strength, scales = choose_scales(seen.pop(tensor), np.concatenate([layer.rows[0] for layer in layers]))
            if strength:
                apply_scales(model, tensor, layers, scales)
                strengths[tensor] = strength
            task.advance(1, tensor)
    return strengths


def _look(
    model: onnx.ModelProto,
    groups: dict[str, list[Layer]],
    calibration: Calibration,
) -> dict[str, Inputs]:
    """Return what the samples show of each activation."""
    total = calibration.count
    positions = max(_POSITIONS, ROWS // total)
    every = -(-total * positions // ROWS)  # of how many samples one has rows kept
    seen = {tensor: Inputs.empty(layers[0].layout.length) for tensor, layers in groups.items()}
    rows, parts = share_out(model, list(groups), calibration, FETCHED_BYTES)
    with calibration.progress.task("look at inputs", total * len(parts)) as task:
        for part in parts:
            done = 0
            for found, count in watch(model, part, calibration, rows):
                chosen = np.arange(-done % every, count, every)
                for tensor in part:
                    values = found.pop(tensor)
                    seen[tensor].add(values)
                    seen[tensor].kept.append(input_rows(groups[tensor][0], values[chosen], positions)[0])
                done += count
                task.advance(count)
    return seen


def choose_scales(seen: Inputs, weights: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
    """Return the strength with which outputs err least, and its scales; strength 0 where none gains enough.

    Args:
        seen: Of the activation.
        weights: float32, `(outputs, channels)`: of all matrices that multiply it.
    """
    candidates = {0.0: np.ones_like(seen.low)}
    candidates |= {strength: smoothing_scales(seen, weights, strength) for strength in STRENGTHS}
    errors = {strength: output_error(seen, weights, scales) for strength, scales in candidates.items()}
    best = min(errors, key=lambda strength: errors[strength])
    if not errors[best] * LEAST_GAIN <= errors[0.0]:  # neither where anything is NaN
        best = 0.0
    return best, candidates[best]


def smoothing_scales(seen: Inputs, weights: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """Return what each channel is to be divided by, float32 of shape `(channels,)`, geometric mean 1.

    A channel that is always 0, or whose weights are, has 1.
    """
    largest = np.maximum(-seen.low, seen.high).astype(np.float64)
    size = np.sqrt(np.square(weights, dtype=np.float64).mean(axis=0))
    used = (largest > 0) & (size > 0)
    logs = strength * np.log(largest, where=used, out=np.zeros_like(largest))
    logs -= (1 - strength) * np.log(size, where=used, out=np.zeros_like(size))
    logs[used] -= logs[used].mean() if used.any() else 0
    return np.exp(logs).astype(np.float32)


def output_error(seen: Inputs, weights: NDArray[np.float32], scales: NDArray[np.float32]) -> float:
    """Return the summed squared error of the outputs on the kept rows, with scaled inputs and weights in 8 bits.

    Args:
        seen: Of the activation; its range sets the grid.
        weights: float32, `(outputs, channels)`.
        scales: float32, `(channels,)`.
    """
    rows = seen.rows
    step, zero = integer_grid(float((seen.low / scales).min()), float((seen.high / scales).max()))
    inputs = np.clip(np.rint(rows / scales / np.float32(step)), -zero, STEPS - zero) * np.float32(step)
    scaled = weights * scales
    steps = floor_scales(row_scales(scaled, "full"))
    outputs = inputs @ (round_rows(scaled, steps) * steps[:, None]).T
    return float(np.square(outputs - rows @ weights.T, dtype=np.float64).sum())


def apply_scales(model: onnx.ModelProto, tensor: str, layers: Sequence[Layer], scales: NDArray[np.float32]) -> None:
    """Divide an activation by scales, and multiply the weights of the MatMuls that read it.

    Args:
        model: In fp32. It is changed.
        tensor: The activation, `(..., channels)`.
        layers: MatMuls that read it.
        scales: float32, `(channels,)`, positive.

    Ensures: the same outputs but for rounding of float32; nodes sorted.
    """
    graph = model.graph
    weights = {layer.weight: layer.weights * scales[:, None] for layer in layers}
    for initializer in graph.initializer:
        if initializer.name in weights:
            initializer.CopyFrom(numpy_helper.from_array(weights[initializer.name], initializer.name))
    names = {layer.name for layer in layers}
    readers = [node for node in graph.node if tensor in node.input]
    outputs = {value.name for value in graph.output}
    alone = tensor not in outputs and all(node.name in names for node in readers)
    if alone and _fold(graph, tensor, scales):
        return
    divided, inverse = f"edgekd.{tensor}.smoothed", f"edgekd.{tensor}.smoothing"
    graph.initializer.append(numpy_helper.from_array(1 / scales, inverse))
    for known in [value for value in (*graph.input, *graph.value_info, *graph.output) if value.name == tensor]:
        graph.value_info.add().CopyFrom(known)
        graph.value_info[-1].name = divided
    first = min(index for index, node in enumerate(graph.node) if node.name in names)
    for node in readers:
        if node.name in names:
            node.input[0] = divided
    graph.node.insert(first, helper.make_node("Mul", [tensor, inverse], [divided], divided))


def _fold(graph: onnx.GraphProto, tensor: str, scales: NDArray[np.float32]) -> bool:
    """Divide the constants of the node that makes a value; return False where it has none for each channel."""
    maker = next((node for node in graph.node if tensor in node.output), None)
    constants = {item.name: item for item in graph.initializer}
    if maker is None or maker.op_type not in ("LayerNormalization", "Mul"):
        return False
    places = range(1, len(maker.input)) if maker.op_type == "LayerNormalization" else range(2)
    chosen = [place for place in places if maker.input[place] in constants]
    fits = all([*constants[maker.input[place]].dims] == [len(scales)] for place in chosen)
    if not fits or len(chosen) != (1 if maker.op_type == "Mul" else len(places)):
        return False
    for place in chosen:
        divided = numpy_helper.to_array(constants[maker.input[place]]) / scales
        name = f"edgekd.{tensor}.smoothed.{place}"
        graph.initializer.append(numpy_helper.from_array(divided, name))
        maker.input[place] = name
    return True
