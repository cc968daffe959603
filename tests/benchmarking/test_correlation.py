"""Bounds on percentiles of correlated samples, on processes whose percentiles are known."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekd.benchmarking.correlation import correlated_uppers, lag_one_autocorrelation
from edgekd.benchmarking.statistics import percentiles

FRACTIONS = [0.5, 0.9]


def autoregressive(
    random: np.random.Generator, coefficient: float, processes: int = 4, length: int = 250
) -> list[NDArray[np.float64]]:
    """Stationary first-order processes with standard normal values."""
    noise = random.standard_normal((processes, length)) * np.sqrt(1 - coefficient**2)
    values = np.empty((processes, length))
    values[:, 0] = random.standard_normal(processes)
    for step in range(1, length):
        values[:, step] = coefficient * values[:, step - 1] + noise[:, step]
    return list(values)


@pytest.mark.parametrize("coefficient", [0.3, 0.6, 0.9])
def test_coverage_on_autoregressive_processes(coefficient: float) -> None:
    random = np.random.default_rng(0)
    truth = [NormalDist().inv_cdf(fraction) for fraction in FRACTIONS]
    rounds, missed, withheld, independent = 60, [0, 0], [0, 0], [0, 0]
    for _ in range(rounds):
        sample = autoregressive(random, coefficient)
        plain = percentiles(np.concatenate(sample), FRACTIONS)
        for index, (upper, _) in enumerate(correlated_uppers(sample, FRACTIONS, 0.99)):
            missed[index] += upper is not None and upper < truth[index]
            withheld[index] += upper is None
            independent[index] += (plain[index].upper or 0) < truth[index]
    assert max(missed) <= 3  # 0.6 are expected at 99 %; 4 or more have a probability of 0.3 %
    assert withheld[0] == 0
    if coefficient == 0.9:
        assert min(independent) >= 9, "what the bounds of independent samples would miss"


def test_the_autocorrelation_is_the_coefficient() -> None:
    sample = autoregressive(np.random.default_rng(0), 0.6, length=20_000)
    assert lag_one_autocorrelation(sample) == pytest.approx(0.6, abs=0.01)


def test_processes_of_different_speed_do_not_count_as_correlated() -> None:
    random = np.random.default_rng(0)
    sample = [random.standard_normal(2000) + offset for offset in (0, 10)]
    assert abs(lag_one_autocorrelation(sample)) < 0.05


def test_a_constant_sample() -> None:
    sample = [np.full(60, 2.0), np.full(60, 2.0)]
    assert lag_one_autocorrelation(sample) == 0.0
    assert correlated_uppers(sample, [0.5, 0.9, 0.99], 0.99) == [(2.0, 7), (2.0, 44), (None, 459)]


def test_bounds_are_the_same_every_time_and_are_values_of_the_sample() -> None:
    sample = autoregressive(np.random.default_rng(0), 0.5)
    bounds = correlated_uppers(sample, FRACTIONS, 0.99)
    assert bounds == correlated_uppers(sample, FRACTIONS, 0.99)
    assert all(bound in np.concatenate(sample) for bound, _ in bounds)


def test_a_percentile_is_not_better_supported_than_a_lower_one() -> None:
    """A slow stretch at the end, with single spikes in it: the spikes alone look independent."""
    random = np.random.default_rng(0)
    process = np.concatenate([random.normal(1, 0.01, 900), random.normal(2, 0.01, 100)])
    process[905::9] += 5
    bounds = correlated_uppers([process], [0.5, 0.9, 0.95, 0.99], 0.99)
    supported = [bound is not None for bound, _ in bounds]
    assert supported == sorted(supported, reverse=True)
    assert not supported[-1]
    needed = [count for _, count in bounds]
    assert needed == sorted(needed)
