"""What a driver does: the only thing the stages and the benchmark know of a device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from edgekd.drivers.limits import Limits
    from edgekd.drivers.throttling import Throttling

UNAVAILABLE = "unavailable"


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process of the device: its name, and the CPU time that it has used, in seconds."""

    name: str
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a device says of itself at one moment. Text it does not tell is "unavailable", a number None.

    Attributes:
        target: Name of its instruction set (see `edgekd.targets`), or "unknown".
        cpu_model: Name of its CPU.
        logical_cores: Number of cores that the system schedules on.
        governor: The CPU frequency governors in force, such as "performance".
        load_average: Mean number of running tasks over the last minute.
        busy_cpu_s: CPU time that all its processes have used since it started, in seconds.
        temperatures_c: Degrees Celsius by the name of a thermal zone; empty where there is no sensor.
        battery_percent: Charge of its battery.
        cores: Its cores by name, such as "4x Cortex-A76"; empty where the name is not known.
        flags: Of its CPU's flags those that decide on INT8 kernels; empty where it does not list any.
        frequencies_mhz: Clock of each core, by its name such as "cpu0"; empty where it does not tell.
        throttling: What slows its processor down; None where it has no such sensor.
        processes: Its processes, by number and start; empty where it does not list them.
        limits: What a container leaves of it; None where nobody knows.
    """

    target: str
    cpu_model: str
    logical_cores: int | None
    governor: str
    load_average: float | None
    busy_cpu_s: float | None
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    battery_percent: float | None = None
    cores: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    frequencies_mhz: Mapping[str, float] = field(default_factory=dict)
    throttling: Throttling | None = None
    processes: Mapping[str, Process] = field(default_factory=dict)
    limits: Limits | None = None


@dataclass(frozen=True, kw_only=True)
class PowerReading:
    """What a device draws at a moment.

    Attributes:
        at_s: The moment, in seconds since the device's start.
        watts: Power of all of it; None where it cannot be known.
        source: What was read, or why nothing could be.
    """

    at_s: float
    watts: float | None
    source: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a run ended: its exit status, and the end of what it printed."""

    exit_code: int
    log: str


class Driver(Protocol):
    """A way to a device, open within a `with` block: entering prepares it, leaving removes all it put there.

    Every method raises `DeviceError` when the device cannot be reached or fails.

    Attributes:
        name: The profile's.
        emulated: It gives the device's answers; its times and its memory are the emulator's and never shown.
        on_this_machine: It reads this machine's files where they are, and its work takes this machine's CPU.
    """

    name: str
    emulated: bool
    on_this_machine: bool

    def __enter__(self) -> Self:
        """Prepare the device."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the private folder and whatever still runs there."""

    def prepare(self) -> None:
        """Make a private folder on the device, and bring there what Python needs to run onnxruntime."""

    def install(self) -> str:
        """Keep on the device what `prepare` would otherwise bring there each time; return in words where it is."""

    def push(self, source: Path, companions: Sequence[str] = ()) -> str:
        """Bring a file to the device and return where it is there. A file that is there already may stay.

        Args:
            source: The file.
            companions: Files it needs beside it, by their names in its folder, such as a model's weights.
        """

    def run(self, script: str, arguments: Sequence[str]) -> Finished:
        """Run a pushed Python script in the private folder until it ends.

        Raises:
            DeviceError: also when the script crashed or was killed; signal 9 probably means a lack of memory.
        """

    def pull(self, name: str, destination: Path) -> None:
        """Fetch the file `name` of the private folder."""

    def probe(self) -> Facts:
        """Ask the device what it is and how busy it is."""

    def read_power(self) -> PowerReading | None:
        """Ask what a device draws whose own programs may not read that; None where they may try themselves."""
