"""How good a model's answers are: numpy in, numbers out. Every stage measures with these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.errors import DataError, ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SQNR_CEILING_DB = 150.0  # float32 resolves 2**-24, about 144 dB: beyond it two outputs are the same


def top1(logits: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Return the share of samples whose largest logit is the label's.

    Args:
        logits: Shape (N, classes).
        labels: Shape (N,), each in [0, classes).

    Raises:
        ModelError: `logits` holds NaN or infinity, or is not two-dimensional.
        DataError: there are no samples, or a label is out of range.
    """
    _require_finite(logits)
    if logits.ndim != 2:
        raise ModelError(f"accuracy needs logits of shape (samples, classes), the model gives {logits.shape}")
    if labels.shape != (len(logits),) or not len(labels):
        raise DataError(
            f"accuracy needs one label for each sample: labels of shape {labels.shape}, {len(logits)} samples"
        )
    classes = logits.shape[1]
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"label {labels[wrong[0]]} of sample {wrong[0]} is out of range: the model knows the classes "
            f"0 to {classes - 1}"
        )
    return float(np.mean(logits.argmax(axis=1) == labels))


def confidences(logits: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how sure a model is of each sample: its largest probability, and its entropy in nats, shape (N,) each.

    Args:
        logits: Shape (N, classes).

    Raises:
        ModelError: `logits` holds NaN or infinity.
    """
    _require_finite(logits)
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    log_probabilities = shifted - log_sum[:, None]
    return np.exp(-log_sum), -(np.exp(log_probabilities) * log_probabilities).sum(axis=1)


def agreement(outputs: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the share of samples (and positions) on which two models choose the same class.

    Args:
        outputs: Shape (N, ..., classes).
        reference: The same shape.

    Raises:
        ModelError: shapes differ, or a value is NaN or infinite.
    """
    _require_alike(outputs, reference)
    return float(np.mean(outputs.argmax(axis=-1) == reference.argmax(axis=-1)))


def sqnr_db(outputs: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the signal-to-quantization-noise ratio, 10 log10(sum r^2 / sum (r - o)^2), in dB.

    Equal outputs give `SQNR_CEILING_DB`, the resolution of float32.

    Args:
        outputs: Any shape.
        reference: The same shape.

    Raises:
        ModelError: shapes differ, a value is NaN or infinite, or the reference is all zero.
    """
    _require_alike(outputs, reference)
    signal = np.square(reference, dtype=np.float64).sum()
    noise = np.square(np.subtract(reference, outputs, dtype=np.float64)).sum()
    if signal == 0:
        raise ModelError("the reference's outputs are all zero: there is no signal to compare with")
    if noise <= signal * 10 ** (-SQNR_CEILING_DB / 10):
        return SQNR_CEILING_DB
    return float(10 * np.log10(signal / noise))


def _require_alike(outputs: NDArray[Any], reference: NDArray[Any]) -> None:
    if outputs.shape != reference.shape:
        raise ModelError(f"the two models' outputs differ in shape: {outputs.shape} and {reference.shape}")
    _require_finite(outputs)
    _require_finite(reference)


def _require_finite(values: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise ModelError("a model's output holds NaN or infinity; such an output is never scored")
