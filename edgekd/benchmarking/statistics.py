"""Percentiles of latencies with bounds that hold for any distribution, and paired ratios with theirs.

Here samples are taken as independent; `correlation.py` has the bounds for those that are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

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


Verdict = Literal["none", "faster", "slower"]


@dataclass(frozen=True, kw_only=True)
class PairedRatio:
    """How one model compares with another, over pairs of neighbouring blocks.

    Attributes:
        median: Of the ratios of the pairs.
        min, max: The least and the largest of them.
        pairs: How many there are.
        lower, upper: With `confidence` the true median ratio lies between them, whatever the distribution.
        confidence: That of the interval; below 0.95 where there are fewer than six pairs.
        noise_floor: The largest change of either model against itself between neighbouring blocks, as a share:
            0.03 is 3 %. None where a model has a single block.
        verdict: `"none"` where the interval holds 1, or the difference is within the noise floor; else `"faster"` or
            `"slower"`.
    """

    median: float
    min: float
    max: float
    pairs: int
    lower: float
    upper: float
    confidence: float
    noise_floor: float | None
    verdict: Verdict


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

    Blocks of the two alternate in time (A B B A), so what drifts slowly falls out of each pair's ratio, and blocks of
    one model are neighbours too: how much they differ is the noise floor. The interval is that of the sign test: with
    n pairs, the r-th smallest and the r-th largest ratio hold the median with probability
    1 - 2 P(Binomial(n, 1/2) < r) (David and Nagaraja, Order Statistics, section 7.1).

    Raises:
        ValueError: the numbers of blocks differ or are zero, or a block is not above zero.
    """
    if len(values) != len(base) or not values or min(*values, *base) <= 0:
        raise ValueError(f"expected pairs of blocks above zero, got {list(values)} and bases {list(base)}")
    ratios = np.sort(np.asarray(values, dtype=np.float64) / np.asarray(base, dtype=np.float64))
    rank, confidence = _median_interval(len(ratios))
    median, lower, upper = float(np.median(ratios)), float(ratios[rank - 1]), float(ratios[-rank])
    floor = None if len(values) < 2 else max(noise_floor(values), noise_floor(base))
    return PairedRatio(
        median=median,
        min=float(ratios[0]),
        max=float(ratios[-1]),
        pairs=len(ratios),
        lower=lower,
        upper=upper,
        confidence=confidence,
        noise_floor=floor,
        verdict=judge_ratio(median, lower, upper, floor or 0.0),
    )


def noise_floor(blocks: Sequence[float]) -> float:
    """Return the largest change between neighbouring blocks of one model, as a share of the smaller one."""
    ordered = np.log(np.asarray(blocks, dtype=np.float64))
    return float(np.expm1(np.abs(np.diff(ordered)).max(initial=0.0)))


def judge_ratio(median: float, lower: float, upper: float, floor: float) -> Verdict:
    """Return what a ratio with its interval and its noise floor says of the difference."""
    if lower <= 1 <= upper or 1 / (1 + floor) <= median <= 1 + floor:
        return "none"
    return "faster" if median < 1 else "slower"


def _median_interval(pairs: int, confidence: float = 0.95) -> tuple[int, float]:
    """Return the largest rank whose interval holds the median with `confidence` (or 1), and what it really has."""
    rank, below, found = 1, 0.5**pairs, 1 - 2 * 0.5**pairs
    while True:
        below += math.comb(pairs, rank) * 0.5**pairs
        if 1 - 2 * below < confidence or 2 * (rank + 1) > pairs + 1:
            return rank, max(0.0, found)
        rank, found = rank + 1, 1 - 2 * below
