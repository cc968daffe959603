"""A listener to progress, for tests of what is said."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgekd.progress import Task


class Heard:
    """Remembers the steps that began and the remarks, and both in order."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.notes: list[str] = []
        self.said: list[str] = []

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Task]:
        self.titles.append(title)
        self.said.append(title)
        yield self

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Say nothing."""

    def note(self, message: str) -> None:
        self.notes.append(message)
        self.said.append(message)
