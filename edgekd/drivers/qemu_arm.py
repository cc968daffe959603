"""The driver of emulated ARM cores.

QEMU's user mode runs an arm64 Python of a private sysroot. It looks for files below the sysroot first, so that
`proc/cpuinfo` there tells onnxruntime of the emulated core instead of this machine's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.drivers.qemu import QemuDriver, without
from edgekd.drivers.sysroot import SITE, is_built, python_of, sysroot
from edgekd.temporary import temporary_room

if TYPE_CHECKING:
    from pathlib import Path

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


class ArmDriver(QemuDriver):
    """Runs scripts under qemu-aarch64, with the Python of a sysroot."""

    @property
    def lacking(self) -> str | None:
        """What keeps this device from being used at once: the first use builds the sysroot."""
        return None if is_built() else "to be prepared"

    def set_up(self) -> None:
        """Build the sysroot if it is not in the cache, and make a view of it whose `proc` is the emulated core's.

        Raises:
            DeviceError: there is no sysroot to be had.
        """
        root = sysroot()
        with temporary_room():
            (self._view / "proc").mkdir(parents=True)
            for place in root.iterdir():
                if place.name != "proc":
                    (self._view / place.name).symlink_to(place)

    def read_features(self) -> frozenset[str]:
        """Ask the emulated core for its features, so that the made-up cpuinfo cannot promise more than it has."""
        first, second = self.ask(_READ_HWCAP)
        found = features(first, second)
        with temporary_room():
            text = cpuinfo(self._settings.part or "", found)
            (self._view / "proc" / "cpuinfo").write_text(text, encoding="ascii")
        return frozenset(found)

    def install(self) -> str:
        """Return where the sysroot is that `prepare` has built."""
        return f"{self.name}: ready; its sysroot is {sysroot()}"

    def interpreter(self) -> list[str]:
        """Return the beginning of a command that runs a Python script on the emulated core."""
        options = ("-L", str(self._view), "-cpu", self._settings.cpu)
        return self.emulation(*options, python=python_of(self._view))

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a run: this machine's Python settings are not the sysroot's."""
        own = without(super().environment(), "PYTHON", "LD_")
        return {**own, "PYTHONPATH": str(self._view / SITE)}

    @property
    def _view(self) -> Path:
        return self.folder / "root"


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
