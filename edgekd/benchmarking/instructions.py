"""Instructions of one inference on an emulated core: what tells of work where times tell nothing."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final

from edgekd.drivers.qemu import QemuDriver

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekd.drivers import Driver

# Processes differ by some 100,000 instructions in how they start: so many more make that less than a per cent.
_ENOUGH: Final = 50_000_000
_FEW_RUNS: Final = 2
_MOST_RUNS: Final = 5000


def count_instructions(driver: Driver, run: Callable[[int], object]) -> int | None:
    """Return the instructions of one inference: the difference of two processes, over the runs that one has more.

    Args:
        driver: Open.
        run: Runs the model in a process on the driver's device, so many times.

    Returns:
        None where the driver cannot count.

    Raises:
        DeviceError: the emulator gives no count.
    """
    if not isinstance(driver, QemuDriver) or not driver.counts_instructions:
        return None

    def difference(runs: int) -> int:
        fewer, more = (driver.instructions(partial(run, times)) for times in (runs, 2 * runs))
        return more - fewer

    found = difference(_FEW_RUNS)
    if found >= _ENOUGH:
        return round(found / _FEW_RUNS)
    runs = min(_MOST_RUNS, math.ceil(_FEW_RUNS * _ENOUGH / max(found, 1)))
    return round(difference(runs) / runs)
