"""Whether this process was started alone, or as one of several that train together."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple, NoReturn

from edgekd.errors import UsageError

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # set by torchrun and by `accelerate launch`, all three


class Launch(NamedTuple):
    """The place of a process among those of one training.

    Attributes:
        rank: Its number; 0 is the main process, which alone writes and speaks.
        size: How many there are.
    """

    rank: int
    size: int

    @property
    def is_main(self) -> bool:
        """Whether this is the main process."""
        return self.rank == 0


def launched() -> Launch:
    """Return this process's place, as the environment says it.

    Raises:
        UsageError: the environment contradicts itself.
    """
    told = {name: os.environ[name] for name in _NAMES if name in os.environ}
    if len(told) < len(_NAMES):
        return Launch(rank=0, size=1)
    if not all(value.isdecimal() for value in told.values()) or int(told["RANK"]) >= int(told["WORLD_SIZE"]):
        said = ", ".join(f"{name}={value}" for name, value in told.items())
        raise UsageError(f"the environment variables {said} do not name one of several processes; unset them")
    return Launch(rank=int(told["RANK"]), size=int(told["WORLD_SIZE"]))


def refuse_several(verb: str, instead: str) -> None:
    """Refuse to run in several processes what only one can do.

    Raises:
        UsageError: this is one of several.
    """
    size = launched().size
    if size > 1:
        raise UsageError(f"{verb} works in one process, {size} were started; {instead}")


def leave(code: int) -> NoReturn:
    """End this process with an exit code.

    One of several ends at once, without what Python does last: the threads that connect the processes, taken down
    while the others take down theirs, have been seen to abort one whose work was done.
    """
    if all(name in os.environ for name in _NAMES):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)
