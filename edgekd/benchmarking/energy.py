"""Measuring what inferences cost in energy, on a device that has a sensor for it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.benchmarking.blocks import meter_block
from edgekd.benchmarking.consumption import Energy, Phases, summarise
from edgekd.benchmarking.shipping import METERED, RUNNER
from edgekd.drivers.jobs import run_job

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edgekd.benchmarking.blocks import Tried
    from edgekd.benchmarking.plan import Plan
    from edgekd.drivers import Driver
    from edgekd.drivers.protocol import PowerReading
    from edgekd.progress import Progress

POLLED_S = 10.0
POLL_EVERY_S = 0.5
ROUNDS = 2


def measure_energy(
    driver: Driver, plan: Plan, tried: Mapping[str, Tried], progress: Progress
) -> tuple[str, list[Energy | None]]:
    """Return the sensor, or "unavailable: " and why, and what each entry of the plan costs; None without a sensor.

    Raises:
        DeviceError: the device failed.
    """
    subject = dict.fromkeys(("model", "data", "device"), f"device {driver.name}")
    polled = driver.read_power()
    if polled is None:
        survey = run_job(driver, METERED, {"survey": True}, subject, [RUNNER.name])
    elif polled.watts is None:
        survey = {"unavailable": polled.source}
    else:
        survey = {"sensor": polled.source, "phase_s": POLLED_S}
    if "unavailable" in survey:
        return f"unavailable: {survey['unavailable']}", [None] * len(plan.entries)
    phases: list[list[Phases]] = [[] for _ in plan.entries]
    with progress.task("energy", ROUNDS * len(plan.entries)) as task:
        for repetition in range(ROUNDS):
            for index in plan.order(repetition):
                found = _run(driver, plan, index, tried, survey["phase_s"], is_polled=polled is not None)
                if isinstance(found, str):
                    return f"unavailable: {found}", [None] * len(plan.entries)
                phases[index].append(found)
                task.advance(1, Path(plan.entries[index].path).name)
    return survey["sensor"], [summarise(own) for own in phases]


def _run(
    driver: Driver, plan: Plan, index: int, tried: Mapping[str, Tried], phase_s: float, *, is_polled: bool
) -> Phases | str:
    """Meter one entry in a fresh process; return what it used, or why the sensor could not be read."""
    entry = plan.entries[index]
    readings: list[PowerReading] = []
    with _polling(driver, readings, is_polled=is_polled):
        found = meter_block(driver, plan, entry, tried[entry.path].place, phase_s=phase_s, polled=is_polled)
    if "unavailable" in found:
        return str(found["unavailable"])
    if not is_polled:
        return _phases(found, found["idle_j"], found["work_j"])
    watts = [mean_w(readings, *found[phase]) for phase in ("idle", "work")]
    if watts[0] is None or watts[1] is None:
        why = next((reading.source for reading in readings if reading.watts is None), None)
        return why or f"too few readings came in ({len(readings)})"
    idle_s, work_s = (found[phase][1] - found[phase][0] for phase in ("idle", "work"))
    return _phases(found, watts[0] * idle_s, watts[1] * work_s)


def _phases(found: Mapping[str, Any], idle_j: float, work_j: float) -> Phases:
    idle_s, work_s = (found[phase][1] - found[phase][0] for phase in ("idle", "work"))
    return Phases(idle_j=idle_j, idle_s=idle_s, work_j=work_j, work_s=work_s, runs=found["runs"])


def mean_w(readings: Sequence[PowerReading], start_s: float, end_s: float) -> float | None:
    """Return the mean power between two moments of the device's boot clock; None of fewer than three readings."""
    inside = [reading.watts for reading in readings if start_s <= reading.at_s <= end_s]
    known = [watts for watts in inside if watts is not None]
    return sum(known) / len(known) if len(known) >= 3 and len(known) == len(inside) else None


@contextmanager
def _polling(driver: Driver, readings: list[PowerReading], *, is_polled: bool) -> Iterator[None]:
    """Ask a device again and again what it draws, while something runs there."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(POLL_EVERY_S):
            reading = driver.read_power()
            if reading is not None:
                readings.append(reading)

    if not is_polled:
        yield
        return
    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
