"""How the library reports what it is doing. It never draws: `cli/ui.py` does, and a notebook may.

Every long step takes `progress: Progress = SILENT`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


class Task(Protocol):
    """One long step with a known number of units of work."""

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Say that `units` more are done; `note` is a short text such as the current loss."""


class Progress(Protocol):
    """A listener for long steps and for single remarks."""

    def task(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Task]:
        """Open a step of `total` units, `done` of which were finished by an earlier, interrupted call."""

    def note(self, message: str) -> None:
        """Pass on a remark of one line."""


class _SilentTask:
    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Ignore it."""


class _Silent:
    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Task]:  # noqa: ARG002
        """Open a step nobody watches."""
        yield _SilentTask()

    def note(self, message: str) -> None:
        """Ignore it."""


SILENT: Progress = _Silent()
