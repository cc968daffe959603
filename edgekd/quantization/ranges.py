"""The range of values that 8 bits are spent on: ways to choose it from a histogram.

A wide range rounds coarsely, a narrow one clips. Every range chosen here holds 0 and lies within what was seen, so
that a removed Relu or Clip is never undone. What 8 bits make of it is `integer_grid`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekd.quantization.histograms import BINS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edgekd.quantization.histograms import Histogram

Range = tuple[float, float]

STEPS: Final = 255  # between the smallest and the largest 8-bit integer
SHARE: Final = 0.9999  # of the values that the percentile range holds
THRESHOLDS: Final = 128  # that the entropy method tries
_OCTAVES: Final = 10  # by how many halvings the MSE method narrows a range on either side
_REFINEMENTS: Final = 6
_NOTHING: Final = 1e-4  # stands for no value at all where a logarithm is taken, as in MXNet and onnxruntime


def integer_grid(low: float, high: float) -> tuple[float, int]:
    """Return scale and zero point, counted from the smallest integer, of a range widened to hold 0.

    As onnxruntime does (`compute_scale_zp` in `quantization/quant_utils.py`): 255 steps, and 0 is an integer, which
    can move both ends of the range by half a step. A range of nothing has scale 1.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / STEPS
    if scale < np.finfo(np.float32).tiny:
        return 1.0, 0
    return scale, round(-low / scale)


def expected_error(histogram: Histogram, low: float, high: float) -> float:
    """Return the mean squared error of the histogram's values once quantized to 8 bits with this range.

    Rounding and clipping are integrated exactly over values taken to be spread evenly in their bin; zeros are exact.
    Over u = x / scale the square of the error, (u - k)^2 for the nearest integer k in range, has the antiderivative
    k / 12 + (u - k)^3 / 3, clipped or not.

    Args:
        histogram: Of at least one value.
        low: Lower end of the range.
        high: Upper end.
    """
    width = (histogram.high - histogram.low) / BINS
    if not width:
        return 0.0
    scale, zero = integer_grid(low, high)
    positions = histogram.edges / scale
    nearest = np.clip(np.rint(positions), -zero, STEPS - zero)
    beyond = positions - nearest
    integral = nearest / 12 + beyond * beyond * beyond / 3
    return float(np.diff(integral) @ histogram.nonzero) * scale**3 / width / histogram.total


def percentile_range(histogram: Histogram, share: float = SHARE) -> Range:
    """Return the narrowest range of bins beyond which no more than `(1 - share) / 2` of the values lie on each side.

    Args:
        histogram: Of at least one value.
        share: Part of the values to keep, in (0, 1].
    """
    spare = int(histogram.total * (1 - share) / 2)
    below = np.concatenate([[0], np.cumsum(histogram.counts)])
    edges = histogram.edges
    low = edges[np.flatnonzero(below <= spare)[-1]]
    high = edges[np.flatnonzero(histogram.total - below <= spare)[0]]
    return min(float(low), 0.0), max(float(high), 0.0)


def entropy_range(histogram: Histogram) -> Range:
    """Return the clipping range whose 8-bit distribution diverges least from that of the values.

    Migacz, "8-bit Inference with TensorRT" (GTC 2017): for each threshold t, P is the distribution of the values
    clipped to [-t, t], and Q what is left of the values inside once all those that share an integer are spread
    evenly over the bins of this integer that hold any; the range with the least KL divergence of Q from P is taken,
    the widest of equals. Other than there, t bounds the values on either side of an asymmetric range, there are 255
    steps, and zeros, which are exact, are left out.

    Args:
        histogram: Of at least one value.
    """
    counts = histogram.nonzero.astype(np.float64)
    best, chosen = np.inf, (histogram.low, histogram.high)
    for first, last in _windows(histogram):
        edges = histogram.edges[[first, last]]
        divergence = _divergence(counts, histogram.edges, first, last)
        if divergence < best:
            best, chosen = divergence, (float(edges[0]), float(edges[1]))
    return chosen


def _windows(histogram: Histogram) -> Iterator[tuple[int, int]]:
    """Yield the bins inside each threshold, from the widest on, as long as there is one for each step."""
    edges = histogram.edges
    largest = max(-histogram.low, histogram.high)
    for threshold in largest * np.arange(THRESHOLDS, 0, -1) / THRESHOLDS:
        first = int(np.searchsorted(edges, -threshold, side="right")) - 1
        last = int(np.searchsorted(edges, threshold, side="left"))
        first, last = max(first, 0), min(last, BINS)
        if last - first > STEPS:
            yield first, last


def _divergence(counts: NDArray[np.float64], edges: NDArray[np.float64], first: int, last: int) -> float:
    """Return KL(P || Q) for a range of bins; infinite if there is no value in them."""
    inside = counts[first:last]
    if not inside.any():
        return np.inf
    clipped = inside.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    held = clipped > 0
    scale, zero = integer_grid(edges[first], edges[last])
    middles = (edges[first:last] + edges[first + 1 : last + 1]) / 2
    integers = np.clip(np.rint(middles / scale) + zero, 0, STEPS).astype(np.intp)
    spread = np.bincount(integers, inside) / np.maximum(np.bincount(integers, held), 1)
    p = clipped[held] / clipped.sum()
    q = np.maximum(spread[integers[held]], _NOTHING)
    return float(p @ np.log(p / (q / q.sum())))


def mse_range(histogram: Histogram) -> Range:
    """Return the range with the least mean squared error of rounding and clipping, as `expected_error` has it.

    Both ends are searched together, the integer zero point included: first in steps of an octave from what was seen
    inwards, then ever more finely around the best. The trade between rounding and clipping is that of Banner et al.
    (arXiv:1810.05723), whose closed form supposes a distribution; here it is the histogram.

    Args:
        histogram: Of at least one value.
    """
    coarse = -np.arange(_OCTAVES + 1.0)
    best, ends = np.inf, (0.0, 0.0)
    lows, highs = coarse, coarse
    for refinement in range(_REFINEMENTS + 1):
        for low in np.unique(np.minimum(lows, 0)) if histogram.low else (0.0,):
            for high in np.unique(np.minimum(highs, 0)) if histogram.high else (0.0,):
                error = expected_error(histogram, histogram.low * 2**low, histogram.high * 2**high)
                if error < best:
                    best, ends = error, (low, high)
        offsets = np.linspace(-1, 1, 5) / 2**refinement
        lows, highs = ends[0] + offsets, ends[1] + offsets
    return float(histogram.low * 2 ** ends[0]), float(histogram.high * 2 ** ends[1])
