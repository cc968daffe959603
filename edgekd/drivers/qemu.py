"""What emulated devices have in common: QEMU's user mode runs a Python on a core of the profile's choice.

That gives the answers of the core's kernels, and nothing that has to do with time or memory.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekd.drivers.local import LocalDriver
from edgekd.drivers.protocol import UNAVAILABLE, Facts
from edgekd.errors import DeviceError
from edgekd.targets import classify

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekd.devices import DeviceProfile, QemuSettings

BUILD: Final = "EDGEKD_QEMU_BUILD"  # names a folder in which QEMU was built with plugins
_PLUGIN: Final = "libinsn.so"


class QemuDriver(LocalDriver, ABC):
    """Runs scripts under QEMU's user-mode emulator of one kind of machine, in a temporary folder.

    Attributes:
        machine: That kind, as `platform.machine()` says it.
    """

    emulated = True

    def __init__(self, profile: DeviceProfile) -> None:
        super().__init__(profile)
        if profile.qemu is None:
            raise ValueError(f"{profile.name}: a profile of the qemu driver has a section [qemu]")
        self._settings: QemuSettings = profile.qemu
        self.machine = profile.qemu.machine
        self._target = profile.target
        self._emulator = ""
        self._counter: tuple[str, ...] = ()
        self._features: frozenset[str] = frozenset()

    @property
    @abstractmethod
    def lacking(self) -> str | None:
        """What keeps this device from being used here, in a word or two, besides the emulator; None for nothing."""

    @abstractmethod
    def set_up(self) -> None:
        """Make ready what the emulator needs, in the private folder."""

    @abstractmethod
    def read_features(self) -> frozenset[str]:
        """Ask the emulated core for its features, as the kernel spells them."""

    def prepare(self) -> None:
        """Make ready what the emulator needs, and see what the emulated core can do.

        Raises:
            DeviceError: no emulator here, nothing for it to run, or its core is not what the profile says.
        """
        if self._emulator:
            return
        emulator = find_emulator(self.machine)
        if emulator is None:
            raise DeviceError(
                f"device {self.name}: {programs(self.machine)[0]} is not here; "
                "on Debian: apt-get install qemu-user-static"
            )
        self._emulator = emulator
        super().prepare()
        self.set_up()
        self._features = self.read_features()
        found = classify(self.machine, self._features).name
        if self._target not in ("auto", found):
            raise self.too_old(f"is {found}, the profile says {self._target}")

    def too_old(self, what: str) -> DeviceError:
        """Return the error of an emulator whose core is not what it should be."""
        return DeviceError(
            f"device {self.name}: this emulator's {self._settings.cpu} {what}: {self.version()} is too old for it"
        )

    def emulation(self, *options: str, python: Path) -> list[str]:
        """Return the beginning of a command that runs a Python script on the emulated core."""
        return [*(self._counter or (self._emulator,)), *options, str(python), "-P"]

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a run; QEMU's own would change what is emulated."""
        return without(super().environment(), "QEMU_")

    def probe(self) -> Facts:
        """Say what core this is; an emulator has no load, no governor and no clock of its own."""
        return Facts(
            target=classify(self.machine, self._features).name,
            cpu_model=f"{self._settings.cpu}, emulated by {self.version()}",
            logical_cores=None,
            governor=UNAVAILABLE,
            load_average=None,
            busy_cpu_s=None,
        )

    @property
    def counts_instructions(self) -> bool:
        """Whether there is a QEMU with plugins for this core.

        Raises:
            DeviceError: the named folder is no build of QEMU.
        """
        return self._find_counter() is not None

    def instructions(self, work: Callable[[], object]) -> int:
        """Return the instructions of the last process that `work` runs here.

        Raises:
            DeviceError: QEMU gives no count.
        """
        found = self._find_counter()
        assert found is not None
        emulator, plugin = found
        log = self.folder / "instructions.txt"
        # Of the plugin, QEMU documentation, "TCG Plugins"; inline: a count without a call for each instruction.
        self._counter = (emulator, "-plugin", f"{plugin},inline=on", "-d", "plugin", "-D", str(log))
        try:
            work()
        finally:
            self._counter = ()
        text = log.read_text(encoding="ascii", errors="replace") if log.exists() else ""
        counts = re.findall(r"^(?:total )?insns: (\d+)$", text, re.MULTILINE)
        if not counts:
            raise DeviceError(f"device {self.name}: {plugin} gives no number of instructions; it said: {text[-300:]}")
        return int(counts[-1])

    def _find_counter(self) -> tuple[str, Path] | None:
        """Return QEMU's emulator of this kind of machine, built with plugins, and the plugin."""
        named = os.environ.get(BUILD)
        if not named:
            return None
        plugin = next(Path(named).absolute().glob(f"tests/**/{_PLUGIN}"), None)
        if plugin is None:
            raise DeviceError(f"{BUILD}={named}: no QEMU was built there with plugins: no tests/**/{_PLUGIN}")
        emulator = Path(named).absolute() / programs(self.machine)[1]
        return (str(emulator), plugin) if emulator.exists() else None

    def ask(self, code: str) -> list[int]:
        """Return the numbers that Python code prints on the emulated core.

        Raises:
            DeviceError: Python does not start there.
        """
        command = [*self.interpreter(), "-c", code]
        ran = subprocess.run(command, capture_output=True, text=True, env=self.environment(), check=False)  # noqa: S603
        try:
            found = [int(number) for number in ran.stdout.split()]
        except ValueError:
            found = []
        if ran.returncode or not found:
            said = " ".join(ran.stderr.split())[-300:] or f"exit status {ran.returncode}"
            raise DeviceError(f"device {self.name}: Python does not start in the emulator; it said: {said}")
        return found

    def version(self) -> str:
        """Return the emulator's name and version."""
        ran = subprocess.run([self._emulator, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
        return ran.stdout.partition("\n")[0].partition(" (")[0] or Path(self._emulator).name


def programs(machine: str) -> tuple[str, str]:
    """Return the names that QEMU's user-mode emulator of a kind of machine may have, the usual one first."""
    return f"qemu-{machine}-static", f"qemu-{machine}"


def find_emulator(machine: str) -> str | None:
    """Return the path of QEMU's user-mode emulator of a kind of machine, such as "aarch64", or None."""
    return next((path for path in map(shutil.which, programs(machine)) if path), None)


def without(environment: dict[str, str], *beginnings: str) -> dict[str, str]:
    """Return the variables whose names do not begin so."""
    return {key: value for key, value in environment.items() if not key.startswith(beginnings)}
