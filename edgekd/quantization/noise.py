"""What rounding the weights of one layer does to its output: the error by layer that reports show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekd.quantization.layers import Layer
    from edgekd.quantization.moments import Moments
    from edgekd.quantization.weights import QuantizedWeights


def weight_sqnr_db(layer: Layer, quantized: QuantizedWeights, moments: Moments | None) -> float | None:
    """Return the ratio of a layer's output to the error that its rounded weights leave in it, in dB.

    With E[x x^T] = M, weights W and their error D, the powers are tr(W M W^T) and tr(D M D^T): no sample has to be
    run again. The bias is in neither.

    Args:
        layer: In fp32.
        quantized: Its 8-bit weights.
        moments: Of its inputs; None takes all inputs as independent and equally strong.

    Returns:
        None where there is no error, or no output.
    """
    rows = layer.rows.astype(np.float64)
    worth = layer.layout.view(quantized.values).reshape(rows.shape) * quantized.scales.reshape(*rows.shape[:2], 1)
    signal, noise = (_power(values, moments) for values in (rows, rows - worth.astype(np.float64)))
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def _power(rows: NDArray[Any], moments: Moments | None) -> float:
    if moments is None:
        return float(np.square(rows).sum())
    return float(np.sum((rows @ moments.square) * rows)) / max(moments.count, 1)
