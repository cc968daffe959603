"""What can go wrong, one class a kind; each kind owns the exit code of the command line.

A message says where, what was expected, what was found and what to do. Code 1 is left for faults of edgekd
itself: anything that reaches the command line and is not an `EdgekdError`.
"""

from __future__ import annotations

import errno
import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike
    from types import ModuleType


class EdgekdError(Exception):
    """The base of all errors that edgekd raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(EdgekdError):
    """The call itself is wrong: an option, an argument, a place to write to."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot be read or asks for something impossible."""


class OutputError(UsageError):
    """A result cannot be written: no permission, no such folder, no space left."""


class DataError(EdgekdError):
    """Input data that is missing, damaged or does not fit."""

    exit_code = 3


class ModelError(EdgekdError):
    """A model that is missing, damaged, gives NaN or does not fit its data."""

    exit_code = 3


class DivergedError(ModelError):
    """A training that came to nothing: its loss or its weights are not finite, or the loss exploded."""


class GateError(EdgekdError):
    """A gate (accuracy, latency, memory) was not met. The best attempt has been kept."""

    exit_code = 4


class DeviceError(EdgekdError):
    """A device cannot be reached, or a run on it failed."""

    exit_code = 5


class MissingExtraError(EdgekdError):
    """A verb needs packages of an extra that is not installed."""

    exit_code = 6


def require_extra(extra: str, module: str) -> ModuleType:
    """Import `module`, which the extra named `extra` installs.

    Raises:
        MissingExtraError: it is not installed; the message holds the pip command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"this needs the package {error.name!r}, which is not installed.\n"
            f"Install it with: pip install 'edgekd[{extra}]'"
        ) from error


@contextmanager
def reading(path: str | PathLike[str], kind: type[EdgekdError], what: str = "file") -> Iterator[None]:
    """Turn an `OSError` while reading `path` into one message of the given kind."""
    try:
        yield
    except FileNotFoundError as error:
        raise kind(f"{path}: no such {what}") from error
    except OSError as error:
        raise kind(f"{path}: cannot read this {what}: {error.strerror or error}") from error


@contextmanager
def writing(path: str | PathLike[str], elsewhere: str = "choose another place with -o") -> Iterator[None]:
    """Turn an `OSError` while writing `path` into an `OutputError`; `elsewhere` says how to choose another place."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = f"free some space or {elsewhere}" if full else elsewhere
        raise OutputError(f"{path}: cannot write here: {error.strerror or error}; {advice}") from error


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn whatever a user's own model raises into one `ModelError` of one line; `--debug` shows the rest."""
    try:
        yield
    except EdgekdError:
        raise
    except (Exception, SystemExit) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        kind = type(error).__name__
        raise ModelError(f"{what}: {kind}: {reason}" if reason else f"{what}: {kind}") from error
