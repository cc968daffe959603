"""Percentiles of latencies with bounds that hold for any distribution, and paired ratios.

Samples are taken as independent. Those of one process are not quite: a bound says what the sample supports,
and repetitions in fresh processes show how far it can be believed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.99


@dataclass(frozen=True, kw_only=True)
class Percentile:
    """One percentile of a sample, in the sample's unit.

    Attributes:
        fraction: Which percentile, such as 0.9.
        estimate: The sample's own; None for a percentile above the median that has no bound, because it would
            be little more than the sample's maximum.
        upper: With 99 % confidence the true percentile is not above this; None where the sample is too small.
        runs_needed: The least number of samples that have a bound.
    """

    fraction: float
    estimate: float | None
    upper: float | None
    runs_needed: int


@dataclass(frozen=True, kw_only=True)
class PairedRatio:
    """How one model compares with another: `median`, `min` and `max` over `pairs` of neighbouring blocks."""

    median: float
    min: float
    max: float
    pairs: int


def runs_needed(fraction: float, confidence: float = CONFIDENCE) -> int:
    """Return the least number of samples whose maximum bounds the percentile: `fraction**n <= 1 - confidence`.

    44 for p90, 90 for p95 and 459 for p99 at 99 %.
    """
    count = max(1, math.floor(math.log1p(-confidence) / math.log(fraction)) - 1)
    while fraction**count > 1 - confidence:
        count += 1
    return count


def upper_rank(count: int, fraction: float, confidence: float = CONFIDENCE) -> int | None:
    """Return the rank (from 1) of the order statistic that is a one-sided upper bound of a percentile.

    A sample is below the true percentile with probability at most `fraction`, for any distribution. So the r-th
    smallest of `count` independent samples is below it with probability at most P(B >= r), where B is
    Binomial(count, fraction). The answer is the least r with P(B >= r) <= 1 - confidence, or None.
    H. A. David and H. N. Nagaraja, Order Statistics, 3rd ed. (2003), section 7.1.

    Probabilities are summed over 12 standard deviations (and 30 more) around the mean, outside of which there
    is less than 1e-20, by the ratio P(B = j + 1) / P(B = j) = (count - j) / (j + 1) * fraction / (1 - fraction).
    """
    mean = count * fraction
    spread = 12 * math.sqrt(mean * (1 - fraction)) + 30
    low, high = max(0, math.floor(mean - spread)), min(count, math.ceil(mean + spread))
    below = np.arange(low, high, dtype=np.float64)
    log_ratios = np.log((count - below) / (below + 1)) + math.log(fraction / (1 - fraction))
    log_weights = np.concatenate(([0.0], np.cumsum(log_ratios)))
    weights = np.exp(log_weights - log_weights.max())
    tails = np.cumsum(weights[::-1]) / weights.sum()  # tails[i] = P(B >= high - i)
    small = int(np.searchsorted(tails, 1 - confidence, side="right"))
    return high - small + 1 if small else None


def percentiles(samples: ArrayLike, fractions: Sequence[float], confidence: float = CONFIDENCE) -> list[Percentile]:
    """Return percentiles of `samples`, shape (n,), in the order of `fractions`.

    An estimate interpolates linearly between order statistics: definition 7 of R. J. Hyndman and Y. Fan, Sample
    Quantiles in Statistical Packages, The American Statistician 50 (1996).

    Raises:
        ValueError: there is no sample, or one is NaN or infinite.
    """
    ordered: NDArray[Any] = np.sort(np.asarray(samples, dtype=np.float64))
    if ordered.ndim != 1 or ordered.size == 0 or not np.isfinite(ordered).all():
        raise ValueError(f"expected finite samples in one dimension, got an array of shape {ordered.shape}")
    return [_percentile(ordered, fraction, confidence) for fraction in fractions]


def _percentile(ordered: NDArray[Any], fraction: float, confidence: float) -> Percentile:
    rank = upper_rank(ordered.size, fraction, confidence)
    position = (ordered.size - 1) * fraction
    lower = ordered[math.floor(position)]
    estimate = lower + (ordered[math.ceil(position)] - lower) * (position - math.floor(position))
    return Percentile(
        fraction=fraction,
        estimate=float(estimate) if rank is not None or fraction <= 0.5 else None,
        upper=None if rank is None else float(ordered[rank - 1]),
        runs_needed=runs_needed(fraction, confidence),
    )


def paired_ratio(values: Sequence[float], base: Sequence[float]) -> PairedRatio:
    """Return how `values` compare with `base`, pair by pair.

    Blocks of the two alternate in time (A B B A), so what drifts slowly falls out of each pair's ratio.

    Raises:
        ValueError: the numbers of blocks differ or are zero, or a base is not above zero.
    """
    if len(values) != len(base) or not values or min(base) <= 0:
        raise ValueError(f"expected pairs with a base above zero, got {len(values)} values and bases {list(base)}")
    ratios = np.asarray(values, dtype=np.float64) / np.asarray(base, dtype=np.float64)
    return PairedRatio(
        median=float(np.median(ratios)), min=float(ratios.min()), max=float(ratios.max()), pairs=len(values)
    )
