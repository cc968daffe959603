"""How this process meets its surroundings: standard streams, signals, and what libraries print."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
_ENDS: Final = ("SIGTERM", "SIGHUP")
# These print their own logs on standard error; all others' go through the root logger.
_LOUD_LOGGERS: Final = ("torch",)
# How often one of torch's threads looks for the others before it gives up its core. The default, 300,000 times,
# keeps the core from the thread that is waited for: beside three busy processes, a training on two threads ran at a
# quarter of the speed it has with this. On an idle machine it costs some 4 %.
_SPINS: Final = "1000"


SIGINT, SIGPIPE = 2, 13  # Windows has no names for both


class Ended(BaseException):
    """The process has to end, as by signal `number`: it was sent, or nobody reads its output any more."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def ends_told() -> Iterator[None]:
    """Turn Ctrl-C and a closed pipe into `Ended`, before click gives them meanings of its own."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Ended(SIGINT) from error
    except BrokenPipeError as error:
        raise Ended(SIGPIPE) from error


@contextmanager
def surroundings(*, debug: bool) -> Iterator[None]:
    """Prepare streams, signals and libraries for a command; `debug` lets libraries speak."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # read by torch's GNU OpenMP at its import
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that cannot be printed is no error
    with _orderly_end(), _talkative_libraries() if debug else _quiet_libraries():
        yield


def settle_streams() -> None:
    """Drop what a standard stream cannot write, which the interpreter would try again at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_missing_streams() -> None:
    """Give a closed standard stream the null device; else the next file that is opened takes its number."""
    while (number := os.open(os.devnull, os.O_RDWR)) < len(_STREAMS):
        os.set_inheritable(number, True)
    os.close(number)
    for number, (name, mode) in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Let a signal end the process as Ctrl-C does: children are ended and temporary files removed."""

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise Ended(number)

    numbers = [getattr(signal, name) for name in _ENDS if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # only the main thread may set handlers
    changed = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]  # nohup ignores SIGHUP
    for number in changed:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep the logs and warnings of libraries, which know nothing of the command, to themselves."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read by torch at its first import
    root, silent = logging.getLogger(), logging.NullHandler()
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in _LOUD_LOGGERS}
    root.addHandler(silent)
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(silent)
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def _talkative_libraries() -> Iterator[None]:
    """Let onnxruntime log, too; `runtime.py` asks this logger."""
    logger = logging.getLogger("edgekd")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(level)
