"""The driver of emulated x86-64 cores: the answers of a CPU that is older than this machine's.

QEMU's user mode runs this machine's own Python with its numpy and onnxruntime, so nothing has to be fetched; both ask
the CPUID instruction which kernels to take, and it answers for the emulated core.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from edgekd.drivers.qemu import QemuDriver
from edgekd.errors import DeviceError

# (leaf, subleaf, register, bit) of the features that tell INT8 kernels apart: Intel 64 and IA-32 Architectures
# Software Developer's Manual, vol. 2A, CPUID. Registers are EAX, EBX, ECX, EDX.
_CPUID = {
    "fma": (1, 0, 2, 12),
    "avx2": (7, 0, 1, 5),
    "avx512_vnni": (7, 0, 2, 11),
    "avx_vnni": (7, 1, 0, 4),
}
# A function (leaf, subleaf, four words) of the System V calling convention: push rbx; mov eax, edi; mov ecx, esi;
# mov r8, rdx; cpuid; mov [r8], eax; mov [r8+4], ebx; mov [r8+8], ecx; mov [r8+12], edx; pop rbx; ret
_READ_CPUID = f"""
import ctypes, mmap
page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("5389f889f14989d00fa241890041895804418948084189500c5bc3"))
Words = ctypes.c_uint32 * 4
cpuid = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.POINTER(Words))(
    ctypes.addressof(ctypes.c_char.from_buffer(page))
)
for leaf, subleaf, register, bit in {list(_CPUID.values())}:
    words = Words()
    cpuid(leaf, subleaf, words)
    print(words[register] >> bit & 1)
"""
_NEEDED = ("avx2", "fma")  # onnxruntime's AVX2 kernels are taken where both are


class X86Driver(QemuDriver):
    """Runs scripts under qemu-x86_64, with this machine's own Python."""

    @property
    def lacking(self) -> str | None:
        """What keeps this device from being used here: another kind of machine has no Python for it."""
        return None if platform.machine().lower() in ("x86_64", "amd64") else "needs an x86-64 machine"

    def set_up(self) -> None:
        """See that this machine's Python is one that the emulator runs.

        Raises:
            DeviceError: it is not.
        """
        if self.lacking:
            raise DeviceError(
                f"device {self.name}: it runs this machine's own Python, which is for {platform.machine()}, "
                "not for x86-64"
            )

    def read_features(self) -> frozenset[str]:
        """Ask the emulated core's CPUID.

        Raises:
            DeviceError: Python does not start there, or the core lacks AVX2.
        """
        found = features(self.ask(_READ_CPUID))
        if not found.issuperset(_NEEDED):
            raise self.too_old(f"lacks {' and '.join(name for name in _NEEDED if name not in found)}")
        return found

    def install(self) -> str:
        """Return that there is nothing to install."""
        return f"{self.name}: nothing to prepare, it runs this machine's Python, {sys.executable}"

    def interpreter(self) -> list[str]:
        """Return the beginning of a command that runs a Python script on the emulated core."""
        # Without check=off QEMU warns of each feature of the core that it does not know, in every process.
        return self.emulation("-cpu", f"{self._settings.cpu},check=off", python=Path(sys.executable))


def features(bits: list[int]) -> frozenset[str]:
    """Return the names of the features whose bits are set."""
    return frozenset(name for name, bit in zip(_CPUID, bits, strict=True) if bit)
