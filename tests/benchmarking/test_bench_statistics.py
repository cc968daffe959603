from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgekd.benchmarking.statistics import paired_ratio, percentiles, runs_needed, upper_rank

FRACTIONS = {Fraction(1, 2), Fraction(9, 10), Fraction(95, 100), Fraction(99, 100)}


def exact_upper_rank(count: int, fraction: Fraction) -> int | None:
    """The least r with P(Binomial(count, fraction) >= r) <= 1 %, in rational numbers."""
    tail = Fraction(0)
    rank = None
    for successes in range(count, -1, -1):
        tail += math.comb(count, successes) * fraction**successes * (1 - fraction) ** (count - successes)
        if tail > Fraction(1, 100):
            return rank
        rank = successes
    return rank


@given(count=st.integers(1, 600), fraction=st.sampled_from(sorted(FRACTIONS)))
@example(count=43, fraction=Fraction(9, 10))
@example(count=44, fraction=Fraction(9, 10))
@example(count=458, fraction=Fraction(99, 100))
@example(count=459, fraction=Fraction(99, 100))
def test_ranks_are_those_of_the_exact_binomial(count: int, fraction: Fraction) -> None:
    assert upper_rank(count, float(fraction)) == exact_upper_rank(count, fraction)


@pytest.mark.parametrize(("fraction", "needed"), [(0.5, 7), (0.9, 44), (0.95, 90), (0.99, 459)])
def test_the_smallest_samples_with_a_bound(fraction: float, needed: int) -> None:
    assert runs_needed(fraction) == needed
    assert upper_rank(needed - 1, fraction) is None
    assert upper_rank(needed, fraction) == needed


@given(fraction=st.floats(0.01, 0.9999), confidence=st.sampled_from([0.9, 0.99, 0.999]))
def test_needed_runs_and_ranks_agree(fraction: float, confidence: float) -> None:
    needed = runs_needed(fraction, confidence)
    assert fraction**needed <= 1 - confidence
    assert needed == 1 or fraction ** (needed - 1) > 1 - confidence


@pytest.mark.parametrize(
    ("count", "fraction", "rank"),  # scipy 1.17: int(binom.ppf(0.99, count, fraction)) + 1
    [(10_000, 0.9, 9070), (1_000_000, 0.5, 501_164), (1_000_000, 0.9, 900_698), (1_000_000, 0.99, 990_232)],
)
def test_ranks_of_large_samples(count: int, fraction: float, rank: int) -> None:
    assert upper_rank(count, fraction) == rank


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=700))
def test_estimates_are_numpys_and_bounds_lie_above_them(samples: list[float]) -> None:
    for found in percentiles(samples, [0.5, 0.9, 0.95, 0.99]):
        expected = np.quantile(samples, found.fraction)
        has_bound = len(samples) >= found.runs_needed
        assert (found.upper is not None) == has_bound
        assert (found.estimate is not None) == (has_bound or found.fraction == 0.5)
        if found.estimate is not None:
            assert found.estimate == pytest.approx(expected, rel=1e-12, abs=1e-12)
        if found.upper is not None:
            assert found.upper in samples
            assert found.upper >= expected * (1 - 1e-12)


def test_bounds_hold_in_99_of_100_samples() -> None:
    random = np.random.default_rng(0)
    true_p90 = -math.log(0.1)
    held = sum((percentiles(random.exponential(size=200), [0.9])[0].upper or 0) >= true_p90 for _ in range(2000))
    assert held >= 1970  # 1980 expected at least, standard deviation 4.4


def test_a_million_samples() -> None:
    samples = np.arange(1_000_000)[::-1]
    (found,) = percentiles(samples, [0.99])
    assert found.estimate == pytest.approx(989_999.01)
    assert found.upper == 990_231


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf], [[1.0]]])
def test_no_percentiles_of_nonsense(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="finite samples"):
        percentiles(samples, [0.5])


def test_paired_ratio() -> None:
    ratio = paired_ratio([1.0, 4.0, 3.0, 8.0], [2.0, 4.0, 2.0, 4.0])
    assert (ratio.median, ratio.min, ratio.max, ratio.pairs) == (1.25, 0.5, 2.0, 4)
    assert (ratio.lower, ratio.upper, ratio.confidence) == (0.5, 2.0, 0.875)
    assert ratio.noise_floor == pytest.approx(3.0)  # from 1 to 4


def test_drift_falls_out_of_a_paired_ratio() -> None:
    drift = np.linspace(1, 1.3, 8)
    ratio = paired_ratio(list(0.5 * drift), list(drift))
    assert (ratio.min, ratio.max) == pytest.approx((0.5, 0.5))
    assert ratio.verdict == "faster"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1.5, 1.5, 1.5, 1.5], "slower"),
        ([0.9, 0.9, 0.9, 0.9], "faster"),
        ([1.0, 1.1, 1.1, 1.1], "none"),  # the interval holds 1
        ([1.05, 1.04, 1.05, 1.14], "none"),  # beyond 1, but a block differs more from its neighbour than that
    ],
)
def test_a_difference_within_the_noise_is_none(values: list[float], verdict: str) -> None:
    assert paired_ratio(values, [1.0] * 4).verdict == verdict


@pytest.mark.parametrize(
    ("pairs", "rank", "confidence"), [(1, 1, 0.0), (2, 1, 0.5), (6, 1, 0.96875), (20, 6, 0.9586)]
)
def test_the_interval_of_the_median_ratio_is_that_of_the_sign_test(pairs: int, rank: int, confidence: float) -> None:
    """Ranks and confidence for 20 pairs: Conover, Practical Nonparametric Statistics, table A3."""
    values = [float(number) for number in range(1, pairs + 1)]
    ratio = paired_ratio(values, [1.0] * pairs)
    assert (ratio.lower, ratio.upper) == (values[rank - 1], values[-rank])
    assert ratio.confidence == pytest.approx(confidence, abs=1e-4)


@pytest.mark.parametrize(("values", "base"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0])])
def test_no_ratio_of_unpaired_blocks(values: list[float], base: list[float]) -> None:
    with pytest.raises(ValueError, match="expected pairs"):
        paired_ratio(values, base) if base else paired_ratio(values, [1.0])
