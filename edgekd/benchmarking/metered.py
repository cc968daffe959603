"""Measure what one model's inferences cost in energy, in this fresh process, by the sensors that the kernel offers.

    python metered.py JOB.json RESULT.json

This file is pushed to boards as it is, beside `runner.py`: Python >= 3.9, the standard library and what the runner
takes; nothing of edgekd.

JOB: what a job of `runner.py` holds (its head says what), and `phase_s`: how long to idle and then to run, in
seconds. With `polled` no sensor is read here: somebody else reads one, and the result says when the phases were. A
JOB that is `{"survey": true}` asks only which sensor there is.

RESULT: `{"unavailable": why}`; or of a survey `sensor` (what it is) and `phase_s` (the least that it needs); or
`idle` and `work`, each `[from, to]` in seconds of the boot clock, with `idle_j` and `work_j` (null where polled) and
`runs` in the work phase; or an error, as of `runner.py`.

Sources: the kernel's Documentation/power/powercap/powercap.rst (micro joules, max_energy_range_uj),
Documentation/hwmon/sysfs-interface.rst (micro watts, millivolts, milliamperes) and
Documentation/ABI/testing/sysfs-class-power (micro volts, amperes and watts).
"""

from __future__ import annotations

import runpy
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLE_S = 0.1
BRIEF_S = 1.0
BATTERY_S = 10.0  # fuel gauges bring a new figure every few seconds
# Names of rails that carry all of a board's power; others may be parts of each other.
WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "VIN", "total")
# Chips whose sensors tell nothing of the processor.
OTHER_CHIPS = ("amdgpu", "radeon", "nouveau", "i915", "xe", "nvme")


class NoSensorError(Exception):
    """Energy cannot be measured; the message says why."""


class Counters:
    """Counters of energy, such as RAPL's: micro joules that start again from 0 at some value."""

    def __init__(self, name: str, folders: list[Path]) -> None:
        self.name = name
        self.phase_s = BRIEF_S
        self.joules = 0.0
        self._folders = folders
        self._ranges = [read_number(folder / "max_energy_range_uj") for folder in folders]
        self._last = [read_number(folder / "energy_uj") for folder in folders]

    def update(self, now_s: float) -> None:  # noqa: ARG002 - counters do not need the time
        """Add what has been used since the last time."""
        for index, folder in enumerate(self._folders):
            value = read_number(folder / "energy_uj")
            used = value - self._last[index]
            self.joules += (used if used >= 0 else used + self._ranges[index]) / 1e6
            self._last[index] = value


class Power:
    """A sensor of power in watts, integrated over time by the trapezoidal rule."""

    def __init__(self, name: str, read_w: Callable[[], float], phase_s: float) -> None:
        self.name = name
        self.phase_s = phase_s
        self.joules = 0.0
        self._read_w = read_w
        self._last: tuple[float, float] | None = None
        read_w()  # so that a sensor which cannot be read is found now

    def update(self, now_s: float) -> None:
        """Add what has been used since the last time."""
        watts = self._read_w()
        if self._last is not None:
            then_s, before_w = self._last
            self.joules += (now_s - then_s) * (before_w + watts) / 2
        self._last = (now_s, watts)


def find_sensor(root: str = "/") -> Any:
    """Return the best sensor: RAPL, then hwmon, then a battery that is being discharged.

    Raises:
        NoSensorError: there is none that can be used; the message has a reason for each kind.
    """
    reasons = []
    for look in (find_rapl, find_hwmon, find_battery):
        try:
            return look(Path(root))
        except NoSensorError as error:
            reasons.append(str(error))
    raise NoSensorError("; ".join(reasons))


def find_rapl(root: Path) -> Counters:
    """Return the counters of all processor packages; what is in them (cores, graphics) is not counted twice."""
    zones = sorted(root.glob("sys/class/powercap/*rapl*:*"))
    packages = [zone for zone in zones if read_line(zone / "name").startswith("package")]
    if not packages:
        raise NoSensorError("no RAPL counters in /sys/class/powercap")
    names = ", ".join(read_line(zone / "name") for zone in packages)
    return Counters(f"RAPL {names}: the processor alone", packages)


def find_hwmon(root: Path) -> Power:
    """Return the sensor of the whole board's power, or the only one there is."""
    sensors: dict[str, Callable[[], float]] = {}
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if read_line(chip / "name") not in OTHER_CHIPS:
            sensors.update(power_sensors(chip))
    whole = [name for name in sensors if name.rpartition(" ")[2] in WHOLE_BOARD]
    if not sensors:
        raise NoSensorError("no power sensor in /sys/class/hwmon")
    if not whole and len(sensors) > 1:
        raise NoSensorError(f"of the power sensors in /sys/class/hwmon none is known to be all: {', '.join(sensors)}")
    name = whole[0] if whole else next(iter(sensors))
    return Power(f"hwmon {name}", sensors[name], BRIEF_S)


def power_sensors(chip: Path) -> dict[str, Callable[[], float]]:
    """Return a chip's sensors of power in watts, by chip and label: measured as such, or voltage and current."""
    found: dict[str, Callable[[], float]] = {}
    for place in sorted([*chip.glob("power*_input"), *chip.glob("power*_average")]):
        kind = place.name.partition("_")[0]
        label = read_line(chip / f"{kind}_label") or kind
        found[f"{read_line(chip / 'name')} {label}"] = partial(product, place)
    for current in sorted(chip.glob("curr*_input")):
        number = current.name.partition("_")[0][len("curr") :]
        voltage = chip / f"in{number}_input"
        label = read_line(chip / f"in{number}_label")
        if label and voltage.is_file():  # one rail's only if they have a name in common, as of an INA3221
            found.setdefault(f"{read_line(chip / 'name')} {label}", partial(product, voltage, current))
    return found


def product(*places: Path) -> float:
    """Return the product of micro watts alone, or of millivolts and milliamperes, in watts."""
    value = 1.0
    for place in places:
        value *= read_number(place)
    return value / 1e6


def find_battery(root: Path) -> Power:
    """Return the sensor of what a battery gives, while nothing charges it."""
    for supply in sorted(root.glob("sys/class/power_supply/*")):
        if read_line(supply / "type") != "Battery" or read_line(supply / "scope") == "Device":
            continue
        status = read_line(supply / "status")
        if status != "Discharging":
            raise NoSensorError(f"the battery is not being discharged ({status or 'unknown'}), so it tells nothing")
        return Power(f"battery {supply.name}", partial(battery_w, supply), BATTERY_S)
    raise NoSensorError("no battery in /sys/class/power_supply")


def battery_w(supply: Path) -> float:
    """Return what a battery gives in watts: its power, or current times voltage."""
    if (supply / "power_now").is_file():
        return abs(read_number(supply / "power_now")) / 1e6
    return abs(read_number(supply / "current_now")) * read_number(supply / "voltage_now") / 1e12


def read_line(path: Path) -> str:
    """Return a small file's text, empty where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def read_number(path: Path) -> int:
    """Return the number in a file.

    Raises:
        NoSensorError: it cannot be read, or is no number.
    """
    try:
        return int(path.read_text(encoding="ascii", errors="replace"))
    except PermissionError as error:
        raise NoSensorError(f"{path} is there, and may not be read by this user (root may)") from error
    except (OSError, ValueError) as error:
        raise NoSensorError(f"{path} cannot be read: {error}") from error


def meter(
    sensor: Any, work: Callable[[], Any], *, clock: Callable[[], float] = time.monotonic, every_s: float = SAMPLE_S
) -> tuple[Any, float]:
    """Return what `work` gives, and the energy in joules that was used meanwhile.

    A thread reads the sensor now and then: powers vary, and counters start again.

    Raises:
        NoSensorError: the sensor could not be read any more.
    """
    stop, failures = threading.Event(), []

    def sample() -> None:
        try:
            while not stop.wait(every_s):
                sensor.update(clock())
        except NoSensorError as error:
            failures.append(error)

    sensor.update(clock())
    before = sensor.joules
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        value = work()
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]
    sensor.update(clock())
    return value, sensor.joules - before


def boot_s() -> float:
    """Return the seconds since the start of the system, as /proc/uptime counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def repeat(run: Callable[[], Any], seconds: float) -> int:
    """Run again and again for so long, at least once, and return how often."""
    end, runs = time.monotonic() + seconds, 0
    while runs == 0 or time.monotonic() < end:
        run()
        runs += 1
    return runs


def measure(job: dict[str, Any], runner: Any, root: str = "/") -> dict[str, Any]:
    """Do the job: find the sensor, load, warm up, idle and run."""
    try:
        if job.get("survey"):
            sensor = find_sensor(root)
            return {"sensor": sensor.name, "phase_s": sensor.phase_s}
        return use(None if job.get("polled") else find_sensor(root), job, runner)
    except NoSensorError as error:
        return {"unavailable": str(error)}


def use(sensor: Any, job: dict[str, Any], runner: Any) -> dict[str, Any]:
    """Return what idling and running used; `sensor` is None where somebody else reads it."""
    runner.check_sha256(job["model"], job["sha256"])
    session = runner.open_session(runner.import_runtime(), job["model"], job["threads"], job.get("session"))
    feeds = runner.make_feeds(session, job)

    def run() -> Any:
        return session.run(None, feeds)

    def phase(work: Callable[[], Any]) -> tuple[Any, float | None, list[float]]:
        start = boot_s()
        value, joules = (work(), None) if sensor is None else meter(sensor, work)
        return value, joules, [start, boot_s()]

    try:
        repeat(run, min(job["phase_s"], BRIEF_S))
        _, idle_j, idle = phase(lambda: time.sleep(job["phase_s"]))
        runs, work_j, worked = phase(lambda: repeat(run, job["phase_s"]))
    except NoSensorError:
        raise
    except Exception as error:
        raise runner.refusal(error, "the model loads but cannot run") from error
    return {
        "schema": runner.SCHEMA,
        "idle": idle,
        "idle_j": idle_j,
        "work": worked,
        "work_j": work_j,
        "runs": runs,
    }


if __name__ == "__main__":
    the_runner = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("runner.py"))))
    sys.exit(the_runner.main(sys.argv[1], sys.argv[2], work=lambda job: measure(job, the_runner)))
