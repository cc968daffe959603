"""8-bit weights: one symmetric scale for each output channel, by one of three rules.

- `full`: the largest weight of the channel becomes 127.
- `seven-bit`: it becomes 64, for every kernel that adds pairs in int16 (onnxruntime's `reduce_range`).
- `pair-safe`: the smallest scale, not below `full`, with which no pair of weights can saturate. Most channels keep
  all 8 bits; none needs more than `seven-bit`'s scale. Depthwise kernels are exempt and keep 8 bits.

Why pair-safe scales can be found exactly: a weight w becomes round(w / s). Division and rounding are monotone, in
float32 too, so a larger s never makes a rounded magnitude larger, and a pair that is safe at one scale is safe at
every larger one. The smallest safe scale of a pair lies by bisection between neighbouring float32 numbers, and a
channel takes the largest of its pairs'. It follows that scales may always be raised, for the sake of a bias or of a
second matrix that shares them, without making a pair unsafe.

A smaller scale halves the bound on the rounding error, not each error: at the smallest safe scale some pair rounds
down by just half a step, and a channel may gain more from finer steps than it loses by clipping its largest weight.
`least_squares_scales` searches for the scale with the least squared error, among those at which pairs are safe.

The rows that functions take are weights in kernel order, `KernelLayout.view`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from edgekd.errors import ModelError
from edgekd.quantization.saturation import PAIR_LIMIT, neighbours

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekd.quantization.exact import KernelLayout

Rule = Literal["full", "seven-bit", "pair-safe"]
WeightRanges = Literal["max", "mse"]
LARGEST: Final = 127
LARGEST_OF_SEVEN_BITS: Final = 64
LARGEST_BIAS: Final = 2**30
_LEAST_SHARE: Final = 0.4  # of a row's largest weight: below it, clipping costs more than fine steps gain
_MOST_SHARE: Final = 1.1
_CANDIDATES: Final = 40
_DAMPING: Final = 0.01  # of the mean importance, added to it: what calibration never used may be used later
_SMALLEST_SCALE: Final = np.finfo(np.float32).tiny


@dataclass(frozen=True, kw_only=True)
class QuantizedWeights:
    """Weights as integers, and what one step is worth.

    Attributes:
        values: int8 in -127..127, of the weights' own shape.
        scales: float32, shape `(channels,)`: `values * scales` along `KernelLayout.channel_axis` are the weights.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]


def quantize_weights(
    weights: NDArray[np.float32],
    layout: KernelLayout,
    rule: Rule,
    *,
    ranges: WeightRanges = "max",
    importance: NDArray[np.float64] | None = None,
    bias: NDArray[np.float32] | None = None,
    input_scale: float = 1.0,
) -> QuantizedWeights:
    """Return weights rounded to 8 bits, with one scale for each output channel.

    Args:
        weights: float32, of shape `layout.shape`.
        layout: How the kernel reads them.
        rule: What the scales must allow; see the module.
        ranges: `"max"` takes the smallest scale that clips no weight, `"mse"` the one of `least_squares_scales`.
        importance: Mean square of what each weight of a row is multiplied with, `(groups, length)`; it matters with
            `"mse"` only, and is the same for all by default.
        bias: float32, shape `(channels,)`: scales are raised until it fits (`floor_scales`).
        input_scale: What one step of the layer's activations is worth; it matters with `bias` only.

    Raises:
        ModelError: weights or bias hold NaN or infinity.
    """
    if not np.isfinite(weights).all() or (bias is not None and not np.isfinite(bias).all()):
        raise ModelError("weights or bias hold NaN or infinity, so they have no scale; repair the fp32 model")
    rows = layout.view(weights.astype(np.float32, copy=False))
    rule = "full" if layout.depthwise and rule == "pair-safe" else rule
    scales = row_scales(rows, rule)
    if ranges == "mse":
        spread = np.ones((1, layout.length)) if importance is None else importance
        scales = least_squares_scales(rows, scales, np.repeat(spread, len(rows) // len(spread), axis=0), rule)
    scales = floor_scales(scales.reshape(-1, layout.channels).max(axis=0), bias, input_scale)
    values = round_rows(rows, np.tile(scales, len(rows) // layout.channels))
    return QuantizedWeights(values=layout.unview(values), scales=scales)


def row_scales(rows: NDArray[np.float32], rule: Rule) -> NDArray[np.float32]:
    """Return each row's scale by a rule, shape `(rows,)`; 0 for a row of zeros, which `floor_scales` replaces."""
    if rule == "seven-bit":
        return _largest(rows) / np.float32(LARGEST_OF_SEVEN_BITS)
    scales = np.where(_largest(rows) > 0, np.maximum(_largest(rows) / np.float32(LARGEST), _SMALLEST_SCALE), 0)
    return pair_safe_scales(rows, scales.astype(np.float32)) if rule == "pair-safe" else scales.astype(np.float32)


def pair_safe_scales(rows: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the smallest scales, none below the given ones, with which no pair of weights can saturate.

    Args:
        rows: float32, `(rows, length)`, in kernel order.
        scales: float32, `(rows,)`, positive wherever a weight is not 0.
    """
    pairs = neighbours(rows)
    alike = pairs[..., 0] * np.sign(pairs[..., 1]) > 0  # a product of the weights themselves could underflow
    row, place = np.nonzero(alike)
    magnitudes = np.abs(pairs[row, place])
    risky = ~_fits(magnitudes, scales[row])
    row, magnitudes = row[risky], magnitudes[risky]
    safe = scales.copy()
    np.maximum.at(safe, row, _smallest_safe_scale(magnitudes, scales[row]))
    return safe


def least_squares_scales(
    rows: NDArray[np.float32], scales: NDArray[np.float32], importance: NDArray[np.float64], rule: Rule
) -> NDArray[np.float32]:
    """Return scales with which rounding each weight by itself gives the least squared error, `(rows,)`.

    Tried are the given scales and evenly spaced ones, from the smallest that the rule allows (no less than 0.4 of the
    largest weight may be left unclipped) to a tenth above the given ones. The square of each weight's error counts as
    much as its input is strong: that is the error of the output, where inputs are not correlated.

    Args:
        rows: float32, `(rows, length)`, in kernel order.
        scales: Those of `row_scales`, `(rows,)`.
        importance: Mean squares of the inputs, `(rows, length)`.
        rule: What the scales must allow.
    """
    importance = importance + _DAMPING * importance.mean(axis=1, keepdims=True)
    lowest = np.where(scales > 0, np.maximum(_largest(rows) / LARGEST * _LEAST_SHARE, _SMALLEST_SCALE), 0)
    lowest = scales if rule == "seven-bit" else lowest.astype(np.float32)
    if rule == "pair-safe":
        lowest = pair_safe_scales(rows, lowest)
    best, least = scales.copy(), _squared_errors(rows, scales, importance)
    for share in np.linspace(0, 1, _CANDIDATES, dtype=np.float32):
        tried = np.maximum(lowest + (scales * np.float32(_MOST_SHARE) - lowest) * share, lowest)
        errors = _squared_errors(rows, tried, importance)
        better = errors < least
        best, least = np.where(better, tried, best), np.where(better, errors, least)
    return best


def floor_scales(
    scales: NDArray[np.float32], bias: NDArray[np.float32] | None = None, input_scale: float = 1.0
) -> NDArray[np.float32]:
    """Return scales that are positive and large enough for the bias.

    A bias is stored as int32 in steps of `input_scale * scale`. A channel whose weights are nearly 0 has a scale so
    small that its bias overflows; at exactly the largest int32 the first product added wraps around (measured, and
    not prevented by onnxruntime's own quantizer, which stops at 2**31 - 1). Here a bias takes at most 2**30, which
    leaves room for 33,000 products of the largest kind. Larger scales round such weights to 0, which costs nothing:
    they are a billionth of the bias.

    A channel of zeros takes the smallest scale of the others, or 1, and then the same floor.

    Args:
        scales: float32, `(channels,)`; 0 for channels of zeros.
        bias: float32, `(channels,)`.
        input_scale: What one step of the layer's activations is worth.
    """
    used = scales[scales > 0]
    filled = np.where(scales > 0, scales, used.min() if used.size else np.float32(1))
    if bias is not None:
        filled = np.maximum(filled, np.abs(bias.astype(np.float64)) / (float(input_scale) * LARGEST_BIAS))
    return np.maximum(filled, _SMALLEST_SCALE).astype(np.float32)


def round_rows(rows: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return rows divided by their scales, rounded half to even as onnxruntime does, clipped to -127..127."""
    values: NDArray[np.int8] = np.clip(np.rint(rows / scales[:, None]), -LARGEST, LARGEST).astype(np.int8)
    return values


def quantize_bias(bias: NDArray[np.float32], input_scale: float, scales: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return a bias, `(channels,)`, in steps of `input_scale * scales`: int32 with zero point 0.

    Requires: scales from `floor_scales` with the same bias and input scale.
    """
    steps = np.float32(input_scale) * scales
    return np.rint(bias.astype(np.float64) / steps.astype(np.float64)).astype(np.int32)


def _largest(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    largest: NDArray[np.float32] = np.abs(rows).max(axis=1, initial=0)
    return largest


def _squared_errors(
    rows: NDArray[np.float32], scales: NDArray[np.float32], importance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what rounding costs each row, `(rows,)`; nothing where the scale is 0, as that of a row of zeros is."""
    steps = np.where(scales > 0, scales, np.float32(1))
    errors = rows - round_rows(rows, steps) * steps[:, None].astype(np.float64)
    costs: NDArray[np.float64] = np.einsum("rl,rl,rl->r", errors, errors, importance)
    return costs


def _fits(magnitudes: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return whether pairs of one sign, `(pairs, 2)`, are safe once rounded and clipped at the scales `(pairs,)`."""
    rounded = np.minimum(np.rint(magnitudes / scales[:, None]), LARGEST)
    fits: NDArray[np.bool_] = rounded.sum(axis=1) <= PAIR_LIMIT
    return fits


def _smallest_safe_scale(magnitudes: NDArray[np.float32], unsafe: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return for each pair of one sign, `(pairs, 2)`, the smallest float32 scale at which it fits.

    Positive float32 numbers are ordered as their bits are, so that halving the bits' distance ends between two
    neighbours. At the seven-bit scale each magnitude rounds to 64 or less, and so every pair fits.

    Args:
        magnitudes: float32, `(pairs, 2)`.
        unsafe: Scales, `(pairs,)`, at which they do not fit.
    """
    low = unsafe.view(np.int32)
    high = (magnitudes.max(axis=1, initial=0) / np.float32(LARGEST_OF_SEVEN_BITS)).view(np.int32)
    while (high - low > 1).any():
        middle = low + (high - low) // 2
        fits = _fits(magnitudes, middle.view(np.float32))
        low, high = np.where(fits, low, middle), np.where(fits, middle, high)
    smallest: NDArray[np.float32] = high.view(np.float32)
    return smallest
