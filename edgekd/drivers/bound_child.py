"""Become another program, on Linux one that the system kills as soon as its parent has died.

    python -I -S bound_child.py PARENT PROGRAM ARGUMENT...

PARENT is the number of the parent process. A parent that was killed cannot end its children, and nothing is to
measure on beside the next run. See prctl(2), PR_SET_PDEATHSIG: the setting outlives the change of program.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1


def main(parent: str, *command: str) -> None:
    """Bind this process to its parent and become `command`."""
    if sys.platform == "linux":
        import ctypes

        # where the C library has none, the parent's own care has to do
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit("the parent has died")
    os.execv(command[0], command)  # noqa: S606 - the driver's own command


if __name__ == "__main__":
    main(*sys.argv[1:])
