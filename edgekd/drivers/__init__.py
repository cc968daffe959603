"""Drivers: the ways to run something on a device, behind one protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekd.drivers.adb import AdbDriver
from edgekd.drivers.local import LocalDriver
from edgekd.drivers.protocol import UNAVAILABLE, Driver, Facts, Finished
from edgekd.drivers.qemu import QemuDriver, state_of
from edgekd.drivers.ssh import SshDriver

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekd.devices import DeviceProfile

_DRIVERS: Final[dict[str, Callable[[DeviceProfile], Driver]]] = {
    "local": LocalDriver,
    "ssh": SshDriver,
    "adb": AdbDriver,
    "qemu": QemuDriver,
}

__all__ = ["UNAVAILABLE", "Driver", "Facts", "Finished", "device_state", "open_driver"]


def open_driver(profile: DeviceProfile) -> Driver:
    """Return the driver that reaches a device, to be used in a `with` block."""
    return _DRIVERS[profile.driver](profile)


def device_state(profile: DeviceProfile) -> str:
    """Return in a word whether a device can be used, as far as this machine knows without asking another."""
    if profile.driver == "qemu":
        return state_of(profile)
    return "ready" if profile.driver == "local" else ""
