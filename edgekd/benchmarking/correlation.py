"""Bounds on percentiles of samples that remember each other: latencies of one process.

Caches, the scheduler and the clock make the time of one run resemble the last one's. A bound that takes the runs as
independent is then too narrow: on a first-order autoregressive process with coefficient 0.9 a "99 %" bound on the
median holds 73 times in 100. Two remedies meet here, and the larger bound counts, for each has a weak side (the
bootstrap far out in the tail, the effective size where the memory is short):

- the moving-block bootstrap (H. R. Künsch, The Annals of Statistics 17 (1989)), here over processes: processes are
  drawn with replacement, and of each whole stretches of time;
- the bound of as many independent samples as the correlated ones are worth: n / tau, with tau the integrated
  autocorrelation time of the indicator "not above the percentile" (C. J. Geyer, Statistical Science 7 (1992),
  section 3.3: summed until the first autocorrelation that is not positive).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekd.benchmarking.statistics import runs_needed, upper_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Processes = Sequence[NDArray[np.float64]]

REPLICATES: Final = 250
_MOST_LAGS: Final = 1000
_SEED: Final = 0  # the bootstrap is a function of the sample


def lag_one_autocorrelation(processes: Processes) -> float:
    """Return the lag-1 autocorrelation of samples, one array of shape (n,) a process, each around its own mean.

    0 where nothing varies or no process has two samples.
    """
    centred = [samples - samples.mean() for samples in processes if samples.size]
    power = sum(float(np.dot(values, values)) for values in centred)
    products = sum(float(np.dot(values[:-1], values[1:])) for values in centred)
    return products / power if power > 0 else 0.0


def correlated_uppers(
    processes: Processes, fractions: Sequence[float], confidence: float
) -> list[tuple[float | None, int]]:
    """Return for each percentile an upper bound that holds with `confidence`, and the least samples that have one.

    The bound is None where the sample is too small, for this percentile or for a lower one: the tail may look less
    correlated than the bulk only because little of it was seen. No bound is below that of a lower percentile.

    Args:
        processes: Samples in the order of time, shape (n,), one array a process.
        fractions: Which percentiles, such as 0.9, in ascending order.
        confidence: Such as 0.99.
    """
    pooled = np.sort(np.concatenate(processes))
    times = [_autocorrelation_time(processes, float(np.quantile(pooled, fraction))) for fraction in fractions]
    replicates = _replicates(processes, fractions, max(times))
    bounds: list[tuple[float | None, int]] = []
    highest, most_needed, supported = -math.inf, 0, True
    for index, (fraction, tau) in enumerate(zip(fractions, times, strict=True)):
        worth = int(pooled.size / tau)
        most_needed = max(most_needed, math.ceil(runs_needed(fraction, confidence) * tau))
        rank = upper_rank(worth, fraction, confidence) if worth and supported else None
        if rank is None:
            supported = False
            bounds.append((None, most_needed))
            continue
        by_worth = pooled[math.ceil(rank / worth * pooled.size) - 1]
        by_bootstrap = np.quantile(replicates[:, index], confidence, method="higher")
        highest = max(highest, float(by_worth), float(by_bootstrap))
        bounds.append((highest, most_needed))
    return bounds


def _autocorrelation_time(processes: Processes, threshold: float) -> float:
    """Return how many samples are worth one independent one, at least 1, for the indicator of the threshold."""
    highest = max(float(samples.max()) for samples in processes)
    compare = np.less_equal if threshold < highest else np.less  # nothing is above the highest
    below = [compare(samples, threshold).astype(np.float64) for samples in processes]
    mean = float(np.concatenate(below).mean())
    centred = [values - mean for values in below]
    power = sum(float(np.dot(values, values)) for values in centred)
    tau = 1.0
    if power > 0:
        for lag in range(1, min(_MOST_LAGS, max(values.size for values in centred) - 1) + 1):
            products = sum(float(np.dot(values[:-lag], values[lag:])) for values in centred if values.size > lag)
            if products <= 0:
                break
            tau += 2 * products / power
    return tau


def _replicates(processes: Processes, fractions: Sequence[float], tau: float) -> NDArray[np.float64]:
    """Return the percentiles of `REPLICATES` resampled sets of processes, shape (replicates, percentiles)."""
    random = np.random.default_rng(_SEED)
    found = np.empty((REPLICATES, len(fractions)))
    for index in range(REPLICATES):
        drawn: list[NDArray[Any]] = [
            _resample(processes[choice], tau, random) for choice in random.integers(0, len(processes), len(processes))
        ]
        values = np.concatenate(drawn)
        places = [max(0, math.ceil(fraction * values.size) - 1) for fraction in fractions]
        found[index] = np.partition(values, places)[places]
    return found


def _resample(samples: NDArray[np.float64], tau: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Return as many samples again, in stretches of consecutive ones; the last is followed by the first."""
    stretch = min(samples.size, math.ceil(max(2 * samples.size ** (1 / 3), 2 * tau)))
    starts = random.integers(0, samples.size, math.ceil(samples.size / stretch))
    places = (starts[:, None] + np.arange(stretch)).ravel()[: samples.size]
    drawn: NDArray[np.float64] = np.take(samples, places, mode="wrap")
    return drawn
