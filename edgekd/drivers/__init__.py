"""Drivers: the ways to run something on a device, behind one protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekd.drivers.local import LocalDriver
from edgekd.drivers.protocol import UNAVAILABLE, Driver, Facts, Finished
from edgekd.drivers.qemu import QemuDriver
from edgekd.drivers.ssh import SshDriver

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekd.devices import DeviceProfile

_DRIVERS: Final[dict[str, Callable[[DeviceProfile], Driver]]] = {
    "local": LocalDriver,
    "ssh": SshDriver,
    "qemu": QemuDriver,
}

__all__ = ["UNAVAILABLE", "Driver", "Facts", "Finished", "open_driver"]


def open_driver(profile: DeviceProfile) -> Driver:
    """Return the driver that reaches a device, to be used in a `with` block."""
    return _DRIVERS[profile.driver](profile)
