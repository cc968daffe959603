"""What an inference costs in energy: above an idle baseline that is measured beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Energy:
    """What a model's inferences cost.

    Attributes:
        idle_w: Power while the process held the model and slept, in W.
        active_w: Power while it ran without a pause, in W.
        per_inference_mj: Energy of an inference above the idle baseline, in mJ; None where it did not stand out.
        per_inference_total_mj: Energy of an inference with the baseline, in mJ.
        runs: Inferences it is the mean of.
    """

    idle_w: float
    active_w: float
    per_inference_mj: float | None
    per_inference_total_mj: float
    runs: int


@dataclass(frozen=True, kw_only=True)
class Phases:
    """What one process used: joules and seconds of idling and of running, and the number of inferences."""

    idle_j: float
    idle_s: float
    work_j: float
    work_s: float
    runs: int


def summarise(phases: Sequence[Phases]) -> Energy:
    """Return the energy of an inference, from all processes that ran the model."""
    idle_w = sum(phase.idle_j for phase in phases) / sum(phase.idle_s for phase in phases)
    work_j, work_s = sum(phase.work_j for phase in phases), sum(phase.work_s for phase in phases)
    runs = sum(phase.runs for phase in phases)
    above_j = work_j - idle_w * work_s
    return Energy(
        idle_w=round(idle_w, 4),
        active_w=round(work_j / work_s, 4),
        per_inference_mj=round(1000 * above_j / runs, 6) if above_j > 0 else None,
        per_inference_total_mj=round(1000 * work_j / runs, 6),
        runs=runs,
    )
