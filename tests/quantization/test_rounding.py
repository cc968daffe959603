from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.quantization.rounding import DAMPING, round_with_feedback
from edgekd.quantization.saturation import pairs_safe
from edgekd.quantization.weights import pair_safe_scales, round_rows


def problem(seed: int, channels: int = 4, length: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights, scales and X^T X of correlated inputs, for one group."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 1, (1, channels, length)).astype(np.float32)
    inputs = np.maximum(rng.normal(0.5, 1, (200, 3)) @ rng.normal(0, 1, (3, length)), 0) + rng.normal(
        0, 0.1, (200, length)
    )
    scales = (np.abs(rows).max(axis=2) / 20).astype(np.float32)
    return rows, scales, (inputs.T @ inputs / len(inputs))[None]


def naive(rows: np.ndarray, scales: np.ndarray, square: np.ndarray, *, pairs: bool) -> np.ndarray:
    """Round column after column; after each, solve anew for the best values of the columns that are left."""
    damped = square[0] + np.eye(len(square[0])) * DAMPING * np.diag(square[0]).mean()
    values = np.zeros(rows.shape[1:], int)
    for channel, weights in enumerate(rows[0].astype(float)):
        left = weights.copy()
        for column in range(len(weights)):
            bounds = (-127, 127)
            if pairs and column % 2:
                partner = values[channel, column - 1]
                bounds = (max(-127, -128 - min(partner, 0)), min(127, 128 - max(partner, 0)))
            step = float(scales[0, channel])
            values[channel, column] = np.clip(np.rint(left[column] / step), *bounds)
            error = left[column] - values[channel, column] * step
            rest = slice(column + 1, None)
            if column + 1 < len(weights):
                left[rest] += np.linalg.solve(damped[rest, rest], damped[rest, column]) * error
    return values


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_it_equals_the_naive_form(seed: int, pairs: bool) -> None:
    rows, scales, square = problem(seed)
    found = round_with_feedback(rows, scales, square, pairs=pairs)
    np.testing.assert_array_equal(found[0], naive(rows, scales, square, pairs=pairs))


def error(rows: np.ndarray, values: np.ndarray, scales: np.ndarray, square: np.ndarray) -> float:
    difference = rows.astype(float) - values * scales[:, :, None].astype(float)
    return float(np.einsum("gok,gkl,gol->", difference, square, difference))


def test_it_is_better_than_rounding_each_weight_for_itself() -> None:
    gains = []
    for seed in range(20):
        rows, scales, square = problem(seed, channels=8, length=24)
        plain = round_rows(rows[0], scales[0])[None]
        found = round_with_feedback(rows, scales, square, pairs=False)
        gains.append(error(rows, plain, scales, square) / error(rows, found, scales, square))
    assert min(gains) > 1
    assert np.median(gains) > 2


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0.3, 1.0))
def test_no_pair_can_saturate_even_where_scales_are_smaller_than_rounding_allows(
    seed: int, length: int, factor: float
) -> None:
    rows, _, square = problem(seed, length=length)
    full = np.maximum(np.abs(rows[0]).max(axis=1) / np.float32(127), np.finfo(np.float32).tiny)
    scales = (pair_safe_scales(rows[0], full) * np.float32(factor))[None]
    values = round_with_feedback(rows, scales, square, pairs=True)
    assert pairs_safe(values[0]).all()
    assert np.abs(values.astype(int)).max() <= 127


def test_groups_are_rounded_each_with_its_own_inputs() -> None:
    parts = [problem(seed) for seed in (1, 2)]
    rows, scales, square = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    together = round_with_feedback(rows, scales, square, pairs=True)
    for group, part in enumerate(parts):
        np.testing.assert_array_equal(together[group], round_with_feedback(*part, pairs=True)[0])


@pytest.mark.parametrize("idle", [[2], [0, 6], list(range(7))])
def test_inputs_that_are_always_zero_leave_plain_rounding(idle: list[int]) -> None:
    rows, scales, square = problem(3)
    square[0, idle] = square[0, :, idle] = 0
    values = round_with_feedback(rows, scales, square, pairs=False)
    plain = round_rows(rows[0], scales[0])
    np.testing.assert_array_equal(values[0][:, idle], plain[:, idle])
