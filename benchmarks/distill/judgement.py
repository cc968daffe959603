"""Which differences are more than seeds: Welch's test against the control, corrected for how many there are.

    python benchmarks/distill/judgement.py

prints the table of the runs that are done so far.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.seeds import SIGNIFICANCE, gain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RESULTS = Path(__file__).parent / "results-accuracy.json"


def accuracies(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the test accuracies of each method that has any, in the order of the seeds."""
    found: dict[str, list[float]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        found.setdefault(run["method"], []).append(run["test_top1"])
    return found


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for their number (Holm 1979): smallest first, times how many are left."""
    corrected: dict[str, float] = {}
    highest = 0.0
    for done, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, p_values[name] * (len(p_values) - done)))
        corrected[name] = highest
    return corrected


def compare(scores: Mapping[str, Sequence[float]], control: str = "control") -> list[dict[str, Any]]:
    """Return a row for each method, the most accurate first.

    Args:
        scores: Of each method, one for each seed.
        control: What all others are held against.

    Returns:
        `method`, `seeds`, `mean`, `std` (null for one seed), `gain` over the control's mean; and, where both have two
        seeds or more and some spread, `p` (Welch's test, two-sided), `p_holm` (corrected over all such comparisons)
        and `significant`.
    """
    base = scores.get(control, ())
    p_values = {
        name: tested
        for name, found in scores.items()
        if name != control and min(len(found), len(base)) > 1 and (tested := gain(found, base)["p_value"]) is not None
    }
    corrected = holm(p_values)
    rows = []
    for name, found in scores.items():
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


def print_table(runs: Sequence[Mapping[str, Any]]) -> None:
    """Print the README's table."""
    print("| method | seeds | test accuracy | std | gain, points | p | p, Holm | more than seeds |")
    print("|---|---|---|---|---|---|---|---|")
    for row in compare(accuracies(runs)):
        std = "" if row["std"] is None else f"{100 * row['std']:.2f}"
        gain = "" if row["gain"] is None or row["method"] == "control" else f"{100 * row['gain']:+.2f}"
        p = (
            f"{row['p']:.2g} | {row['p_holm']:.2g} | {'yes' if row['significant'] else 'no'}"
            if "p" in row
            else " | | "
        )
        print(f"| {row['method']} | {row['seeds']} | {100 * row['mean']:.2f} % | {std} | {gain} | {p} |")


if __name__ == "__main__":
    print_table(json.loads(RESULTS.read_bytes())["runs"])
