"""Which differences are more than seeds: Welch's test against the control, corrected for how many there are."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from edgekd.seeds import SIGNIFICANCE, gain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for their number (Holm 1979): smallest first, times how many are left."""
    corrected: dict[str, float] = {}
    highest = 0.0
    for done, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, p_values[name] * (len(p_values) - done)))
        corrected[name] = highest
    return corrected


def compare(accuracies: Mapping[str, Sequence[float]], control: str = "control") -> list[dict[str, Any]]:
    """Return a row for each method, the most accurate first.

    Args:
        accuracies: Of each method, one for each seed.
        control: What all others are held against.

    Returns:
        `method`, `seeds`, `mean`, `std` (null for one seed), `gain` over the control's mean; and, where both have two
        seeds or more and some spread, `p` (Welch's test, two-sided), `p_holm` (corrected over all such comparisons)
        and `significant`.
    """
    base = accuracies.get(control, ())
    p_values = {
        name: tested
        for name, found in accuracies.items()
        if name != control and min(len(found), len(base)) > 1 and (tested := gain(found, base)["p_value"]) is not None
    }
    corrected = holm(p_values)
    rows = []
    for name, found in accuracies.items():
        row: dict[str, Any] = {
            "method": name,
            "seeds": len(found),
            "mean": round(statistics.fmean(found), 5),
            "std": round(statistics.stdev(found), 5) if len(found) > 1 else None,
            "gain": round(statistics.fmean(found) - statistics.fmean(base), 5) if base else None,
        }
        if name in corrected:
            row |= {
                "p": float(f"{p_values[name]:.3g}"),
                "p_holm": float(f"{corrected[name]:.3g}"),
                "significant": corrected[name] < SIGNIFICANCE,
            }
        rows.append(row)
    return sorted(rows, key=lambda row: -row["mean"])
