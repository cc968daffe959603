"""The driver of emulated ARM cores: the answers of their kernels, and nothing that has to do with time or memory.

QEMU's user mode runs an arm64 Python of a private sysroot. It looks for files below the sysroot first, so that
`proc/cpuinfo` there tells onnxruntime of the emulated core instead of this machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.drivers.local import LocalDriver
from edgekd.drivers.protocol import UNAVAILABLE, Facts
from edgekd.drivers.sysroot import SITE, is_built, python_of, sysroot
from edgekd.errors import DeviceError
from edgekd.targets import classify
from edgekd.temporary import temporary_room

if TYPE_CHECKING:
    from edgekd.devices import DeviceProfile, QemuSettings

PROGRAMS = ("qemu-aarch64-static", "qemu-aarch64")
# Names of the bits of AT_HWCAP and AT_HWCAP2, as /proc/cpuinfo spells them: Linux, arch/arm64/kernel/cpuinfo.c.
_HWCAP = (
    *("fp", "asimd", "evtstrm", "aes", "pmull", "sha1", "sha2", "crc32", "atomics", "fphp", "asimdhp", "cpuid"),
    *("asimdrdm", "jscvt", "fcma", "lrcpc", "dcpop", "sha3", "sm3", "sm4", "asimddp", "sha512", "sve", "asimdfhm"),
    *("dit", "uscat", "ilrcpc", "flagm", "ssbs", "sb", "paca", "pacg"),
)
_HWCAP2 = (
    *("dcpodp", "sve2", "sveaes", "svepmull", "svebitperm", "svesha3", "svesm4", "flagm2", "frint", "svei8mm"),
    *("svef32mm", "svef64mm", "svebf16", "i8mm", "bf16", "dgh", "rng", "bti", "mte"),
)
_READ_HWCAP = (
    "import ctypes; read = ctypes.CDLL(None).getauxval; read.restype = ctypes.c_ulong; print(read(16), read(26))"
)


class QemuDriver(LocalDriver):
    """Runs scripts under qemu-aarch64, in a temporary folder."""

    emulated = True

    def __init__(self, profile: DeviceProfile) -> None:
        super().__init__(profile)
        if profile.qemu is None:
            raise ValueError(f"{profile.name}: a profile of the qemu driver has a section [qemu]")
        self._settings: QemuSettings = profile.qemu
        self._target = profile.target
        self._features: tuple[str, ...] = ()
        self._emulator = ""

    def prepare(self) -> None:
        """Build the sysroot if it is not in the cache, and see what the emulated core can do.

        Raises:
            DeviceError: no emulator here, no sysroot to be had, or the emulator's core is not what the profile says.
        """
        if self._emulator:
            return
        emulator = find_emulator()
        if emulator is None:
            raise DeviceError(
                f"device {self.name}: {PROGRAMS[0]} is not here; on Debian: apt-get install qemu-user-static"
            )
        root = sysroot()
        super().prepare()
        self._emulator = emulator
        with temporary_room():
            view = self.folder / "root"
            (view / "proc").mkdir(parents=True)
            for place in root.iterdir():
                if place.name != "proc":
                    (view / place.name).symlink_to(place)
        self._features = self._read_features()
        with temporary_room():
            (view / "proc" / "cpuinfo").write_text(cpuinfo(self._settings.part, self._features), encoding="ascii")
        found = classify("aarch64", frozenset(self._features)).name
        if self._target not in ("auto", found):
            raise DeviceError(
                f"device {self.name}: this emulator's {self._settings.cpu} is {found}, the profile says "
                f"{self._target}: {self._version()} is too old for it"
            )

    def install(self) -> str:
        """Return where the sysroot is that `prepare` has built."""
        return f"{self.name}: ready; its sysroot is {sysroot()}"

    def interpreter(self) -> list[str]:
        """Return the beginning of a command that runs a Python script on the emulated core."""
        view = self.folder / "root"
        python = python_of(view)
        return [self._emulator, "-L", str(view), "-cpu", self._settings.cpu, str(python), "-P"]

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a run: this machine's Python settings are not the sysroot's."""
        own = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "QEMU_", "LD_"))}
        return {"ORT_DISABLE_TELEMETRY": "1", **own, "PYTHONPATH": str(self.folder / "root" / SITE)}

    def probe(self) -> Facts:
        """Say what core this is; an emulator has no load, no governor and no clock of its own."""
        return Facts(
            target=classify("aarch64", frozenset(self._features)).name,
            cpu_model=f"{self._settings.cpu}, emulated by {self._version()}",
            logical_cores=None,
            governor=UNAVAILABLE,
            load_average=None,
            busy_cpu_s=None,
        )

    def _read_features(self) -> tuple[str, ...]:
        """Ask the emulated core for its features, so that the made-up cpuinfo cannot promise more than it has."""
        command = [*self.interpreter(), "-c", _READ_HWCAP]
        ran = subprocess.run(command, capture_output=True, text=True, env=self.environment(), check=False)  # noqa: S603
        try:
            first, second = (int(number) for number in ran.stdout.split())
        except ValueError:
            said = " ".join(ran.stderr.split())[-300:] or f"exit status {ran.returncode}"
            raise DeviceError(f"device {self.name}: Python does not start in the emulator; it said: {said}") from None
        return features(first, second)

    def _version(self) -> str:
        ran = subprocess.run([self._emulator, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
        return ran.stdout.partition("\n")[0].partition(" (")[0] or Path(self._emulator).name


def state_of(profile: DeviceProfile) -> str:
    """Return in a word whether an emulated device can be used here: its probe decides, once the sysroot is there."""
    if find_emulator() is None:
        return f"needs {PROGRAMS[0]}"
    if not is_built():
        return "to be prepared"
    try:
        with QemuDriver(profile):
            return "ready"
    except DeviceError:
        return "not offered: this emulator lacks it"


def find_emulator() -> str | None:
    """Return the path of QEMU's user-mode emulator of arm64, or None."""
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


def features(hwcap: int, hwcap2: int) -> tuple[str, ...]:
    """Return the names of the features in the auxiliary vector's two words."""
    words = ((hwcap, _HWCAP), (hwcap2, _HWCAP2))
    return tuple(name for word, names in words for bit, name in enumerate(names) if word >> bit & 1)


def cpuinfo(part: str, names: tuple[str, ...]) -> str:
    """Return the text of `/proc/cpuinfo` of one ARM core."""
    lines = {
        "processor": "0",
        "BogoMIPS": "100.00",
        "Features": " ".join(names),
        "CPU implementer": "0x41",  # Arm Limited
        "CPU architecture": "8",
        "CPU variant": "0x0",
        "CPU part": part,
        "CPU revision": "0",
    }
    return "".join(f"{key}\t: {value}\n" for key, value in lines.items()) + "\n"
