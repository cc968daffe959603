"""Drivers: the ways to run something on a device, behind one protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekd.drivers.adb import AdbDriver
from edgekd.drivers.local import LocalDriver
from edgekd.drivers.protocol import UNAVAILABLE, Driver, Facts, Finished, PowerReading
from edgekd.drivers.qemu import QemuDriver, find_emulator, programs
from edgekd.drivers.qemu_arm import ArmDriver
from edgekd.drivers.qemu_x86 import X86Driver
from edgekd.drivers.ssh import SshDriver
from edgekd.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekd.devices import DeviceProfile

__all__ = ["UNAVAILABLE", "Driver", "Facts", "Finished", "PowerReading", "device_state", "open_driver"]


def _emulated(profile: DeviceProfile) -> QemuDriver:
    return (ArmDriver if profile.qemu is None or profile.qemu.machine == "aarch64" else X86Driver)(profile)


_DRIVERS: Final[dict[str, Callable[[DeviceProfile], Driver]]] = {
    "local": LocalDriver,
    "ssh": SshDriver,
    "adb": AdbDriver,
    "qemu": _emulated,
}


def open_driver(profile: DeviceProfile) -> Driver:
    """Return the driver that reaches a device, to be used in a `with` block."""
    return _DRIVERS[profile.driver](profile)


def device_state(profile: DeviceProfile) -> str:
    """Return in a word whether a device can be used, as far as this machine knows without asking another.

    What an emulated one lacks, it says itself once it can be prepared.
    """
    if profile.driver != "qemu":
        return "ready" if profile.driver == "local" else ""
    emulated = _emulated(profile)
    if find_emulator(emulated.machine) is None:
        return f"needs {programs(emulated.machine)[0]}"
    if emulated.lacking:
        return emulated.lacking
    try:
        with emulated:
            return "ready"
    except DeviceError:
        return "not offered: this emulator lacks it"
