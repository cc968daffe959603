"""Rounding weights with the errors in view: each rounding error is made good by the weights that are left.

The method is GPTQ's (Frantar et al. 2022, arXiv:2210.17323; after Optimal Brain Surgeon, Hassibi and Stork 1993): a
layer's error is e X^T X e^T, with e the weights' errors and X its inputs. Weights are rounded one column after
another; with the inverse of X^T X, the error of each is spread over the columns that are still free so that the
layer's output changes least.

Ours is the pair constraint inside. Where a kernel sums neighbouring products in 16 bits, the second weight of a pair
is rounded to the nearest integer that keeps the pair safe, and what that costs is spread like any rounding error.
So a scale can be smaller than rounding alone would allow.

How far to trust X^T X: errors are spread onto columns whose inputs were small on the calibration samples. Behind a
GELU a channel can be silent in nearly all sentences and large in one. Of 600 sentences that did not calibrate,
MiniLM's worst had a cosine to fp32 of 0.950 with a damping of 0.01, 0.828 with 0.1, 0.991 with 0.5 or 2, and 0.990
with rounding to nearest (256 sentences calibrated). MatMuls therefore take 1, between the two that served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekd.quantization.saturation import PAIR_LIMIT
from edgekd.quantization.weights import LARGEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAMPING = 0.01  # of the mean diagonal, added to it: GPTQ's
DAMPING_OF_PRODUCTS = 1.0  # for MatMuls: what a transformer's rare channels are worth, few samples show


def round_with_feedback(
    rows: NDArray[np.float32],
    scales: NDArray[np.float32],
    square: NDArray[np.float64],
    *,
    pairs: bool,
    damping: float = DAMPING,
) -> NDArray[np.int8]:
    """Return weights as integers whose joint error, seen through the layer's inputs, is small.

    Args:
        rows: float32, `(groups, channels / groups, length)`, in kernel order.
        scales: float32, `(groups, channels / groups)`.
        square: X^T X of the inputs, `(groups, length, length)`.
        pairs: Keep every pair of neighbouring columns from saturating 16 bits.
        damping: Added to the diagonal, as a share of its mean.

    Returns:
        int8, the shape of `rows`, in -127..127.
    """
    factor = _inverse_factor(square, damping)
    steps = scales.astype(np.float64)
    left = rows.astype(np.float64)
    values = np.zeros(rows.shape, np.int8)
    for column in range(rows.shape[2]):
        low, high = _bounds(values, column, pairs)
        exact = left[:, :, column]
        chosen = np.clip(np.rint(exact / steps), low, high)
        values[:, :, column] = chosen
        error = (exact - chosen * steps) / factor[:, column, column, None]
        left[:, :, column + 1 :] -= error[:, :, None] * factor[:, None, column, column + 1 :]
    return values


def _bounds(values: NDArray[np.int8], column: int, pairs: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the smallest and the largest integer that a column may take."""
    high = np.full(values.shape[:2], LARGEST)
    if pairs and column % 2:
        partner = values[:, :, column - 1].astype(np.int64)
        return -np.minimum(high, PAIR_LIMIT + np.minimum(partner, 0)), np.minimum(
            high, PAIR_LIMIT - np.maximum(partner, 0)
        )
    return -high, high


def _inverse_factor(square: NDArray[np.float64], damping: float) -> NDArray[np.float64]:
    """Return U with (X^T X)^-1 = U^T U, upper triangular: row j says how an error in column j spreads.

    Inputs that are always zero tell nothing of their weights; they count as if they were worth one.
    """
    length = square.shape[-1]
    diagonal = np.einsum("gii->gi", square)
    idle = diagonal <= 0
    damped = square + np.eye(length) * (damping * diagonal.mean(axis=1) + idle.all(axis=1))[:, None, None]
    np.einsum("gii->gi", damped)[idle] += 1
    lower = np.linalg.cholesky(np.linalg.inv(damped))
    return lower.transpose(0, 2, 1)
