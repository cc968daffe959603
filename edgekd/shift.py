"""Whether data is of another kind than the test data, by how sure the teacher is of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekd.artifact import rounded
from edgekd.metrics import confidences

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DISTANCE = 0.1  # of the two distributions, from which on they are called different
SIGNIFICANCE = 0.01


def confidence_shift(transfer: NDArray[Any], test: NDArray[Any]) -> dict[str, Any]:
    """Return how sure a teacher is of transfer and of test samples, and whether that differs.

    The rule: a shift is a two-sample Kolmogorov-Smirnov distance of the largest probabilities of at least 0.1 that
    chance alone gives in less than 1 % of the cases.

    Args:
        transfer: The teacher's logits, shape (N, classes).
        test: Likewise, shape (M, classes).

    Returns:
        For `transfer` and `test` their `samples`, and the means `max_probability` and `entropy` (nats); the
        `ks_distance` and its `p_value`; and whether there is a `shift`.
    """
    from scipy import stats

    largest, described = [], {}
    for name, logits in (("transfer", transfer), ("test", test)):
        probability, entropy = confidences(logits)
        largest.append(probability)
        described[name] = {
            "samples": len(logits),
            "max_probability": _mean(probability),
            "entropy": _mean(entropy),
        }
    found = stats.ks_2samp(*largest)
    distance, p_value = float(found.statistic), float(found.pvalue)
    return {
        **described,
        "ks_distance": rounded(distance),
        "p_value": p_value,
        "shift": distance >= DISTANCE and p_value < SIGNIFICANCE,
    }


def _mean(values: NDArray[np.float64]) -> float:
    return rounded(float(values.mean()))
