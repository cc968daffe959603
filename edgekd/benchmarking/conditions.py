"""The circumstances of a measurement, and whether they let it count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekd.drivers import Facts

_BUSY_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Circumstances of a measurement. What the device does not tell is "unavailable" or None.

    Attributes:
        verdict: "valid", or "tainted: " and why.
        cpu_model: Name of the CPU.
        logical_cores: Number of cores that the system schedules on.
        governor: The CPU frequency governors in force.
        load_average_before: Mean number of running tasks over the minute before the start.
        others_busy_cores: Cores kept busy by anything but the measured processes, on average while they ran.
        onnxruntime: Version that ran the models.
    """

    verdict: str
    cpu_model: str
    logical_cores: int | None
    governor: str
    load_average_before: float | None
    others_busy_cores: float | None
    onnxruntime: str


def judge(before: Facts, after: Facts, *, own_cpu_s: float, elapsed_s: float, onnxruntime: str) -> Conditions:
    """Return the conditions of a measurement from the device's facts before and after it.

    It is tainted when other work took more than a quarter of the cores. Where the system counts CPU time, that is
    the time used in between less the `own_cpu_s` of the measured processes; so work that ended before the start
    (training, in `edgekd run`) does not count, though the load average still remembers it. Elsewhere the load
    average before the start decides.
    """
    others = _others_busy_cores(before, after, own_cpu_s, elapsed_s)
    return Conditions(
        verdict=_verdict(others, before.load_average, before.logical_cores),
        cpu_model=before.cpu_model,
        logical_cores=before.logical_cores,
        governor=before.governor,
        load_average_before=before.load_average,
        others_busy_cores=others,
        onnxruntime=onnxruntime,
    )


def _others_busy_cores(before: Facts, after: Facts, own_cpu_s: float, elapsed_s: float) -> float | None:
    if before.busy_cpu_s is None or after.busy_cpu_s is None or elapsed_s <= 0:
        return None
    return max(0.0, round((after.busy_cpu_s - before.busy_cpu_s - own_cpu_s) / elapsed_s, 3))


def _verdict(others: float | None, load_average: float | None, cores: int | None) -> str:
    limit = _BUSY_SHARE * (cores or 1)
    if others is not None:
        if others > limit:
            return f"tainted: other work kept {others:.1f} of {cores or 1} cores busy"
    elif load_average is not None and load_average > limit:
        return f"tainted: the load average was {load_average:.1f} on {cores or 1} cores before the start"
    return "valid"
