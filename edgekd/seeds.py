"""What distillation gained over the control, judged over several seeds."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SIGNIFICANCE = 0.05  # a difference that chance alone gives less often than this is believed


def compare_seeds(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of several seeds in `report.json`.

    Args:
        scores: `seeds`, and by role (`student`, and `control` if there is one) `test_top1` and `validation_top1` of
            each seed, and `shipped_seed`.

    Returns:
        The same with `mean` and `std` (of the sample, n - 1) of the test accuracies, and the `gain`; `control` and
        `gain` are None without a control.
    """
    roles = {role: _spread(scores[role]) for role in ("student", "control") if role in scores}
    control = roles.get("control")
    return {
        "seeds": list(scores["seeds"]),
        "student": roles["student"],
        "control": control,
        "gain": None if control is None else gain(roles["student"]["test_top1"], control["test_top1"]),
    }


def gain(student: Sequence[float], control: Sequence[float]) -> dict[str, Any]:
    """Return how the students' accuracies differ from the controls', by Welch's test (Biometrika 34, 1947).

    Args:
        student: One test accuracy for each seed, 2 or more.
        control: Likewise.

    Returns:
        `difference` of the means; `lower` and `upper`, which hold the true one with 95 % confidence; the two-sided
        `p_value`; and the `verdict`: `"helped"`, `"hurt"`, `"within-noise"`, or `"untested"` where all students are
        alike and all controls too: then there is no spread to test against, and the other three figures are None.
    """
    difference = float(np.mean(student) - np.mean(control))
    if np.ptp(student) == 0 and np.ptp(control) == 0:
        return {"difference": difference, "lower": None, "upper": None, "p_value": None, "verdict": "untested"}
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one of the two groups may have no spread
        found = stats.ttest_ind(student, control, equal_var=False)
        interval = found.confidence_interval(1 - SIGNIFICANCE)
    p_value = float(found.pvalue)
    moved = "helped" if difference > 0 else "hurt"
    return {
        "difference": difference,
        "lower": float(interval.low),
        "upper": float(interval.high),
        "p_value": p_value,
        "verdict": moved if p_value < SIGNIFICANCE else "within-noise",
    }


def _spread(role: Mapping[str, Any]) -> dict[str, Any]:
    test = role["test_top1"]
    return {**role, "mean": float(np.mean(test)), "std": float(np.std(test, ddof=1))}
