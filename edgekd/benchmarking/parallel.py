"""Work on several devices at the same time; one that fails does not stop the others."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from edgekd.devices import load_profile
from edgekd.errors import EdgekdError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edgekd.progress import Progress, Task

Result = TypeVar("Result")
_THIS_MACHINE: Final = ("local", "qemu")


def on_devices(
    names: Sequence[str], work: Callable[[str, Progress], Result], progress: Progress
) -> dict[str, Result | EdgekdError]:
    """Do something on each device, on all at the same time.

    Those that take this machine's CPU take turns, so that they do not spoil each other's measurements.

    Args:
        names: Names of device profiles.
        work: What to do, given a name and whom to report to.
        progress: Hears of all of it, in remarks that name the device.

    Returns:
        By device, what `work` gave or the error it ended with.

    Raises:
        UsageError: there is no such device; then nothing has begun.
    """
    drivers = {name: load_profile(name).driver for name in names}
    here = [name for name, driver in drivers.items() if driver in _THIS_MACHINE]
    queues = [here] * bool(here) + [[name] for name in drivers if name not in here]
    stop = threading.Event()
    results: dict[str, Result | EdgekdError] = {}
    faults: list[BaseException] = []

    def go_through(queue: Sequence[str]) -> None:
        for name in queue:
            try:
                results[name] = work(name, _Named(name, progress, stop))
            except EdgekdError as error:
                results[name] = error
                progress.note(f"{name}: {error}")
            except BaseException as error:  # noqa: BLE001 - raised again where the threads meet
                faults.append(error)
                stop.set()
                return

    threads = [threading.Thread(target=go_through, args=(queue,)) for queue in queues]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()  # after an interrupt: each driver removes what it has put on its device, then its thread ends
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if faults:
        raise faults[0]
    return {name: results[name] for name in drivers}


class _Named:
    """Progress of one device among several: remarks that name it."""

    def __init__(self, name: str, progress: Progress, stop: threading.Event) -> None:
        self._name = name
        self._progress = progress
        self._stop = stop

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Task]:  # noqa: ARG002
        """Remark when the step starts and ends."""
        self.note(f"{title} ...")
        yield self
        self.note(f"{title}: done")

    def advance(self, units: int = 1, note: str | None = None) -> None:  # noqa: ARG002
        """Stop here if the others have been stopped.

        Raises:
            KeyboardInterrupt: they have.
        """
        if self._stop.is_set():
            raise KeyboardInterrupt

    def note(self, message: str) -> None:
        """Pass on a remark."""
        self.advance()
        self._progress.note(f"{self._name}: {message}")
