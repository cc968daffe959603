from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnxruntime.quantization.quant_utils import compute_scale_zp

from edgekd.quantization.histograms import BINS, Histogram
from edgekd.quantization.ranges import (
    STEPS,
    THRESHOLDS,
    Range,
    entropy_range,
    expected_error,
    integer_grid,
    mse_range,
    percentile_range,
)

RANGES: list[Callable[[Histogram], Range]] = [percentile_range, entropy_range, mse_range]
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def histogram_of(values: np.ndarray) -> Histogram:
    values = values.astype(np.float32)
    histogram = Histogram.over(float(values.min()), float(values.max()))
    histogram.add(values)
    return histogram


def normal(count: int = 100_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count)


def quantized(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scale, zero = integer_grid(low, high)
    return (np.clip(np.rint(values / scale) + zero, 0, STEPS) - zero) * scale


SHAPES = {
    "normal": normal(),
    "far off zero": normal() + 100,
    "negative only": -np.abs(normal()) - 3,
    "relu": np.maximum(normal() - 0.5, 0),
    "relu6": np.clip(normal() * 4, 0, 6),
    "laplace": np.random.default_rng(1).laplace(size=100_000),
    "one-sided tail": np.random.default_rng(2).exponential(size=100_000) ** 2 - 0.3,
}


@given(low=FLOATS, high=FLOATS)
def test_the_integer_grid_is_that_of_onnxruntime(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    zero, scale = compute_scale_zp(np.float32(low), np.float32(high), np.array(0, np.uint8), np.array(255, np.uint8))
    found_scale, found_zero = integer_grid(low, high)
    assert np.float32(found_scale) == np.float32(scale)
    assert found_zero == zero


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("fraction", [1, 0.6, 0.2, 0.03])
def test_the_expected_error_is_that_of_quantizing_every_value(name: str, fraction: float) -> None:
    histogram = histogram_of(SHAPES[name])
    low, high = histogram.low * fraction, histogram.high * fraction
    values = SHAPES[name].astype(np.float32)
    measured = np.mean((values - quantized(values, low, high)) ** 2)
    assert expected_error(histogram, low, high) == pytest.approx(measured, rel=0.03)


def test_the_error_of_zeros_is_nothing_whatever_the_range() -> None:
    values = np.zeros(1000)
    values[0] = 1
    assert expected_error(histogram_of(values), 0, 1) == pytest.approx(0, abs=1e-9)
    assert expected_error(histogram_of(np.zeros(5)), 0, 0) == 0


@given(values=arrays(np.float32, st.integers(1, 200), elements=FLOATS), share=st.sampled_from([1, 0.99, 0.9, 0.5]))
@settings(max_examples=50)
def test_the_percentile_range_is_the_narrowest_that_spares_few_enough(values: np.ndarray, share: float) -> None:
    histogram = histogram_of(values)
    spare = math.floor(len(values) * (1 - share) / 2)
    counts, edges = histogram.counts, histogram.edges
    low, high = 0, BINS
    while counts[: low + 1].sum() <= spare and low < BINS:
        low += 1
    while counts[high - 1 :].sum() <= spare and high > 0:
        high -= 1
    assert percentile_range(histogram, share) == (min(edges[low], 0), max(edges[high], 0))


def test_the_percentile_range_of_many_values_is_that_of_numpy() -> None:
    histogram = histogram_of(normal())
    expected = np.quantile(normal(), [0.005, 0.995])
    assert percentile_range(histogram, 0.99) == pytest.approx(
        expected, abs=2 * (histogram.high - histogram.low) / BINS
    )


@pytest.mark.parametrize("name", SHAPES)
def test_the_mse_range_is_as_good_as_the_best_of_all_thresholds(name: str) -> None:
    values = SHAPES[name][:20_000].astype(np.float32)
    histogram = histogram_of(values)
    lows = np.linspace(histogram.low, 0, 40) if histogram.low else [0.0]
    highs = np.linspace(0, histogram.high, 40) if histogram.high else [0.0]
    best = min(np.mean((values - quantized(values, low, high)) ** 2) for low in lows for high in highs)
    found = np.mean((values - quantized(values, *mse_range(histogram))) ** 2)
    assert found <= 1.02 * best


@pytest.mark.parametrize("name", SHAPES)
def test_no_range_has_less_error_than_the_mse_range(name: str) -> None:
    histogram = histogram_of(SHAPES[name])
    least = expected_error(histogram, *mse_range(histogram))
    others = [(histogram.low, histogram.high), percentile_range(histogram), entropy_range(histogram)]
    assert all(least <= 1.001 * expected_error(histogram, *other) for other in others)


def test_the_mse_range_keeps_where_relu6_piles_up() -> None:
    assert mse_range(histogram_of(SHAPES["relu6"])) == (0, 6)


def naive_divergence(histogram: Histogram, first: int, last: int) -> float:
    """KL of one threshold, value by value and in the words of the paper."""
    counts, edges = histogram.nonzero.tolist(), histogram.edges
    scale, zero = integer_grid(edges[first], edges[last])
    p = {place: float(counts[place]) for place in range(first, last)}
    inside: dict[int, float] = {}
    p[first] += sum(counts[:first])
    p[last - 1] += sum(counts[last:])
    p = {place: count for place, count in p.items() if count}
    integers = {}
    for place in p:
        middle = (edges[place] + edges[place + 1]) / 2
        integers[place] = min(max(np.rint(middle / scale) + zero, 0), STEPS)
        inside[integers[place]] = inside.get(integers[place], 0) + counts[place]
    if not any(inside.values()):
        return math.inf
    sharing = Counter(integers.values())
    q = {place: max(inside[integers[place]] / sharing[integers[place]], 1e-4) for place in p}
    total_p, total_q = sum(p.values()), sum(q.values())
    return sum(p[i] / total_p * math.log(p[i] / total_p / (q[i] / total_q)) for i in p)


@pytest.mark.parametrize("name", ["normal", "relu", "one-sided tail", "negative only"])
def test_the_entropy_range_is_the_best_of_all_thresholds(name: str) -> None:
    values = np.append(SHAPES[name][:3000], 8 * np.abs(SHAPES[name]).max())
    histogram = histogram_of(values)
    width = (histogram.high - histogram.low) / BINS
    largest = max(-histogram.low, histogram.high)
    tried: dict[Range, float] = {}
    for step in range(1, THRESHOLDS + 1):
        threshold = largest * step / THRESHOLDS
        first = max(math.floor((-threshold - histogram.low) / width + 1e-6), 0)
        last = min(math.ceil((threshold - histogram.low) / width - 1e-6), BINS)
        if last - first >= STEPS + 1:
            ends = (float(histogram.edges[first]), float(histogram.edges[last]))
            tried[ends] = naive_divergence(histogram, first, last)
    found = entropy_range(histogram)
    assert tried[found] == pytest.approx(min(tried.values()), rel=1e-9)
    assert found != (histogram.low, histogram.high)


@pytest.mark.parametrize("choose", [percentile_range, entropy_range])
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_outlier_of_80_sigma_is_clipped(choose: Callable[[Histogram], Range], sign: int) -> None:
    low, high = choose(histogram_of(np.append(normal(), sign * 80)))
    assert -6 < low < -3
    assert 3 < high < 6


def test_the_mse_range_clips_an_outlier_as_far_as_that_pays() -> None:
    values = np.append(normal(1_000_000), 80)
    low, high = mse_range(histogram_of(values))
    brute = min(np.linspace(2, 80, 157), key=lambda high: np.mean((values - quantized(values, low, high)) ** 2))
    assert high == pytest.approx(brute, rel=0.05)
    assert high < 60


@pytest.mark.parametrize("choose", RANGES)
@given(values=arrays(np.float32, st.integers(1, 100), elements=FLOATS))
@settings(max_examples=30, deadline=None)
def test_a_range_holds_zero_and_lies_within_what_was_seen(
    choose: Callable[[Histogram], Range], values: np.ndarray
) -> None:
    low, high = choose(histogram_of(values))
    assert min(values.min(), 0) <= low <= 0 <= high <= max(values.max(), 0)


@pytest.mark.parametrize("choose", RANGES)
@pytest.mark.parametrize("constant", [5, -5, 1e-30, 3e38])
def test_a_constant_is_kept(choose: Callable[[Histogram], Range], constant: float) -> None:
    low, high = choose(histogram_of(np.full(1000, constant)))
    kept = high if constant > 0 else low
    assert kept == pytest.approx(np.float32(constant), rel=1 / STEPS)


@pytest.mark.parametrize("choose", RANGES)
def test_the_masked_scores_of_attention_do_not_blind_the_others(choose: Callable[[Histogram], Range]) -> None:
    """Half of the values are the smallest float32: a range is found, and is one that onnxruntime can store."""
    values = np.where(np.arange(1000) % 2, normal(1000), np.finfo(np.float32).min)
    low, high = choose(histogram_of(values))
    assert low == pytest.approx(np.finfo(np.float32).min, rel=1e-3)
    assert math.isfinite(integer_grid(low, high)[0])
