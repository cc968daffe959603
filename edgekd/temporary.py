"""Temporary files, and what to say where there is no room for them."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def temporary_room() -> Iterator[None]:
    """Turn an `OSError` while temporary files are made or written into an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise no_room(error.strerror or str(error)) from error


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a private folder that vanishes with the block.

    Raises:
        OutputError: there is no folder for temporary files, or it cannot be written.
    """
    with temporary_room():
        opened = tempfile.TemporaryDirectory(prefix="edgekd-", ignore_cleanup_errors=True)
    with opened as folder:
        yield Path(folder)


def no_room(reason: str) -> OutputError:
    """Return the error that says where temporary files cannot be written."""
    try:
        place = tempfile.gettempdir()
    except FileNotFoundError:  # nothing that the system offers takes them; the reason names all it tried
        place = "temporary files"
    return OutputError(
        f"{place}: cannot write temporary files here: {reason}; free some space or set TMPDIR to another folder"
    )
