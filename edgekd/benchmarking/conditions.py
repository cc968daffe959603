"""The circumstances of a measurement, and whether they let it count."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - pydantic reads the annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgekd.drivers import UNAVAILABLE
from edgekd.drivers.limits import Limits  # noqa: TC001 - likewise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekd.drivers import Facts

EMULATED: Final = "emulated: only answers count; times and memory would be the emulator's, so none are given"
NOT_THROTTLED: Final = "none"
NOT_READ: Final = "not read"
_BUSY_SHARE = 0.25
_NOTABLE_CORES = 0.05  # a process that is named took more than this of a core
_MOST_NAMED = 5


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
    def throttling(self) -> tuple[str, ...] | None:
        """What slowed the processor down, in words; None where nothing is known and no sensor would tell."""
        if self.before.throttling is None or self.after.throttling is None:
            return None
        words = self.before.throttling.until(self.after.throttling)
        return words if words or self.after.throttling.sensed else None

    @property
    def taint(self) -> str | None:
        """Why this stretch does not count; None where nothing is known against it.

        Other work kept more than a quarter of the cores busy, or the processor was slowed down.
        """
        others = self.others_cpu_s
        if others is not None and others > _BUSY_SHARE * (self.before.logical_cores or 1) * self.elapsed_s:
            return "other work was running"
        return f"the processor was slowed down ({', '.join(self.throttling)})" if self.throttling else None

    def processes_cpu_s(self) -> dict[str, float]:
        """Return the CPU time, in seconds, of every process that was there at the end, by name.

        The measured ones are not: each has ended before.
        """
        found: dict[str, float] = {}
        for key, process in self.after.processes.items():
            earlier = self.before.processes.get(key)
            used = process.cpu_s - (earlier.cpu_s if earlier else 0.0)
            found[process.name] = found.get(process.name, 0.0) + used
        return found


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
        retaken: Repetitions that were thrown away and measured again, because they were tainted.
        cores: The cores by name, such as "4x Cortex-A76".
        flags: Of the CPU's flags those that decide on INT8 kernels.
        frequencies_mhz_before, frequencies_mhz_after: Clock of each core, by its name.
        temperatures_c_before, temperatures_c_after: Degrees Celsius, by the name of a sensor.
        throttling: What slowed the processor down while models were measured, or "none".
        busy_processes: Other processes and the cores that each kept busy on average, where more than 0.05.
        limits: What a container leaves of the device; None in it is no limit.
        battery_percent_before: Charge of its battery.
        power_sensor: What energy was measured by, or "unavailable: " and why not, or "not read".
    """

    verdict: str
    cpu_model: str
    logical_cores: int | None
    governor: str
    load_average_before: float | None
    others_busy_cores: float | None
    onnxruntime: str
    retaken: int = 0
    cores: tuple[str, ...] | None = None
    flags: tuple[str, ...] | None = None
    frequencies_mhz_before: Mapping[str, float] | None = None
    frequencies_mhz_after: Mapping[str, float] | None = None
    temperatures_c_before: Mapping[str, float] | None = None
    temperatures_c_after: Mapping[str, float] | None = None
    throttling: str = UNAVAILABLE
    busy_processes: Mapping[str, float] | None = None
    limits: Limits | None = None
    battery_percent_before: float | None = None
    power_sensor: str = NOT_READ


def judge(spans: Sequence[Span], *, onnxruntime: str, retaken: int = 0, power_sensor: str = NOT_READ) -> Conditions:
    """Return the conditions of a measurement from the stretches of time that count.

    It is tainted when other work took more than a quarter of the cores, or the processor was slowed down. Where the
    system counts CPU time, other work is the time used in the spans less that of the measured processes; so work that
    ended before the start (training, in `edgekd run`) does not count, though the load average still remembers it.
    Elsewhere the load average before the start decides. A sensor that is not there taints nothing.
    """
    first, last = spans[0].before, spans[-1].after
    others, busy = _others_busy_cores(spans), _busy_processes(spans)
    throttling = _throttling(spans)
    faults = [_business(others, busy, first.load_average, first.logical_cores)]
    if throttling not in (UNAVAILABLE, NOT_THROTTLED):
        faults.append(f"the processor was slowed down ({throttling})")
    known = [fault for fault in faults if fault is not None]
    return Conditions(
        verdict=f"tainted: {'; '.join(known)}" if known else "valid",
        cpu_model=first.cpu_model,
        logical_cores=first.logical_cores,
        governor=first.governor,
        load_average_before=first.load_average,
        others_busy_cores=others,
        onnxruntime=onnxruntime,
        retaken=retaken,
        cores=first.cores or None,
        flags=first.flags or None,
        frequencies_mhz_before=first.frequencies_mhz or None,
        frequencies_mhz_after=last.frequencies_mhz or None,
        temperatures_c_before=first.temperatures_c or None,
        temperatures_c_after=last.temperatures_c or None,
        throttling=throttling,
        busy_processes=busy,
        limits=first.limits,
        battery_percent_before=first.battery_percent,
        power_sensor=power_sensor,
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
        flags=facts.flags or None,
    )


def _others_busy_cores(spans: Sequence[Span]) -> float | None:
    known = [(span.others_cpu_s, span.elapsed_s) for span in spans]
    total_s = sum(others_s for others_s, _ in known if others_s is not None)
    if any(others_s is None for others_s, _ in known):
        return None
    return round(total_s / sum(elapsed_s for _, elapsed_s in known), 3)


def _busy_processes(spans: Sequence[Span]) -> dict[str, float] | None:
    elapsed_s = sum(span.elapsed_s for span in spans)
    if elapsed_s <= 0 or not all(span.before.processes and span.after.processes for span in spans):
        return None
    total_s: dict[str, float] = {}
    for span in spans:
        for name, used in span.processes_cpu_s().items():
            total_s[name] = total_s.get(name, 0.0) + used
    cores = {name: round(used / elapsed_s, 3) for name, used in total_s.items() if used / elapsed_s > _NOTABLE_CORES}
    return dict(sorted(cores.items(), key=lambda item: (-item[1], item[0]))[:_MOST_NAMED])


def _throttling(spans: Sequence[Span]) -> str:
    found = [span.throttling for span in spans]
    words = sorted({word for words in found for word in words or ()})
    return ", ".join(words) or (UNAVAILABLE if None in found else NOT_THROTTLED)


def _business(
    others: float | None, busy: Mapping[str, float] | None, load_average: float | None, cores: int | None
) -> str | None:
    """Return in what way the device was too busy, or None."""
    limit = _BUSY_SHARE * (cores or 1)
    if others is not None:
        named = f" ({', '.join(f'{name} {used:.1f}' for name, used in busy.items())})" if busy else ""
        return f"other work kept {others:.1f} of {cores or 1} cores busy{named}" if others > limit else None
    if load_average is not None and load_average > limit:
        return f"the load average was {load_average:.1f} on {cores or 1} cores before the start"
    return None
