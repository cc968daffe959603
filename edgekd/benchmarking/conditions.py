"""The circumstances of a measurement, and whether they let it count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekd.drivers import Facts

EMULATED = "emulated: only answers count; times and memory would be the emulator's, so none are given"
_BUSY_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of time in which models were measured.

    Attributes:
        before, after: What the device said of itself.
        own_cpu_s: CPU time of the measured processes, in seconds.
        elapsed_s: Its length, in seconds.
    """

    before: Facts
    after: Facts
    own_cpu_s: float
    elapsed_s: float

    @property
    def others_cpu_s(self) -> float | None:
        """CPU time that anything else took, in seconds; None where the device does not count it."""
        if self.before.busy_cpu_s is None or self.after.busy_cpu_s is None or self.elapsed_s <= 0:
            return None
        return max(0.0, self.after.busy_cpu_s - self.before.busy_cpu_s - self.own_cpu_s)

    @property
    def is_tainted(self) -> bool:
        """Whether other work is known to have kept more than a quarter of the cores busy."""
        others = self.others_cpu_s
        return others is not None and others > _BUSY_SHARE * (self.before.logical_cores or 1) * self.elapsed_s


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Circumstances of a measurement. What the device does not tell is "unavailable" or None.

    Attributes:
        verdict: "valid", or "tainted: " and why; on an emulated device "emulated: " and what that means.
        cpu_model: Name of the CPU.
        logical_cores: Number of cores that the system schedules on.
        governor: The CPU frequency governors in force.
        load_average_before: Mean number of running tasks over the minute before the start.
        others_busy_cores: Cores kept busy by anything but the measured processes, on average while they ran.
        onnxruntime: Version that ran the models.
        retaken: Repetitions that were thrown away and measured again, because other work was running.
    """

    verdict: str
    cpu_model: str
    logical_cores: int | None
    governor: str
    load_average_before: float | None
    others_busy_cores: float | None
    onnxruntime: str
    retaken: int = 0


def judge(spans: Sequence[Span], *, onnxruntime: str, retaken: int = 0) -> Conditions:
    """Return the conditions of a measurement from the stretches of time that count.

    It is tainted when other work took more than a quarter of the cores. Where the system counts CPU time, that is
    the time used in the spans less that of the measured processes; so work that ended before the start (training, in
    `edgekd run`) does not count, though the load average still remembers it. Elsewhere the load average before the
    start decides.
    """
    first = spans[0].before
    others = _others_busy_cores(spans)
    return Conditions(
        verdict=_verdict(others, first.load_average, first.logical_cores),
        cpu_model=first.cpu_model,
        logical_cores=first.logical_cores,
        governor=first.governor,
        load_average_before=first.load_average,
        others_busy_cores=others,
        onnxruntime=onnxruntime,
        retaken=retaken,
    )


def without_times(facts: Facts, *, onnxruntime: str) -> Conditions:
    """Return the conditions on an emulated device, where nothing is measured."""
    return Conditions(
        verdict=EMULATED,
        cpu_model=facts.cpu_model,
        logical_cores=facts.logical_cores,
        governor=facts.governor,
        load_average_before=None,
        others_busy_cores=None,
        onnxruntime=onnxruntime,
    )


def _others_busy_cores(spans: Sequence[Span]) -> float | None:
    known = [(span.others_cpu_s, span.elapsed_s) for span in spans]
    total_s = sum(others_s for others_s, _ in known if others_s is not None)
    if any(others_s is None for others_s, _ in known):
        return None
    return round(total_s / sum(elapsed_s for _, elapsed_s in known), 3)


def _verdict(others: float | None, load_average: float | None, cores: int | None) -> str:
    limit = _BUSY_SHARE * (cores or 1)
    if others is not None:
        if others > limit:
            return f"tainted: other work kept {others:.1f} of {cores or 1} cores busy"
    elif load_average is not None and load_average > limit:
        return f"tainted: the load average was {load_average:.1f} on {cores or 1} cores before the start"
    return "valid"
