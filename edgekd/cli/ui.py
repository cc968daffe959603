"""What people see: progress on standard error, results on standard output. The only module that draws."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from edgekd.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edgekd.progress import Progress, Task

PLAIN_EVERY_S = 10.0
BARS_EVERY_S = 0.1
_UNBOUNDED = 1_000_000


def say(text: str) -> None:
    """Print a result on standard output.

    Raises:
        OutputError: it cannot be written.
        BrokenPipeError: nobody reads it any more.
    """
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output: cannot write here: {error.strerror or error}") from error


def remark(text: str) -> None:
    """Print a line on standard error; no work is lost because it cannot be written.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    try:
        click.echo(text, err=True)
    except BrokenPipeError:
        raise
    except OSError:
        pass


def progress() -> Progress:
    """Return bars with time left on a terminal, plain lines elsewhere."""
    return _Bars() if sys.stderr.isatty() else _Lines()


class _Bars:
    """Progress bars, one step at a time."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Task]:
        """Draw a bar while the step runs, and leave a line when it is done."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        # drawn when there is something new, and asleep while a benchmark runs
        with Progress(*columns, console=self._console, auto_refresh=False) as bars:
            bar = _Bar(bars, bars.add_task(title, total=total, completed=done, note=""))
            yield bar
            bars.refresh()

    def note(self, message: str) -> None:
        """Print a remark."""
        self._console.print(message, style="dim", markup=False, highlight=False)


class _Bar:
    def __init__(self, bars: Any, number: Any) -> None:
        self._bars = bars
        self._number = number
        self._drawn = 0.0
        bars.refresh()

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Move the bar, and draw it at most ten times a second."""
        fields = {} if note is None else {"note": note}
        self._bars.update(self._number, advance=units, **fields)
        now = time.monotonic()
        if now - self._drawn >= BARS_EVERY_S:
            self._bars.refresh()
            self._drawn = now


class _Lines:
    """Plain lines, for logs: a step's start, a sign of life every 10 s, its end."""

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Task]:
        """Print when the step starts and ends."""
        remark(f"{title} ...")
        start = time.monotonic()
        yield _Line(title, total, done)
        remark(f"{title}: done in {time.monotonic() - start:.1f} s")

    def note(self, message: str) -> None:
        """Print a remark."""
        remark(message)


class _Line:
    def __init__(self, title: str, total: int, done: int) -> None:
        self._title, self._total, self._done, self._first = title, total, done, done
        self._start = self._last = time.monotonic()

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Print now and then how far it is and what is left."""
        self._done += units
        now = time.monotonic()
        if now - self._last < PLAIN_EVERY_S:
            return
        self._last = now
        left_s = (now - self._start) / (self._done - self._first) * (self._total - self._done)
        share = self._done / self._total
        extra = f", {note}" if note else ""
        remark(f"{self._title}: {share:.0%}, about {left_s:.0f} s left{extra}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output; the first column is text, the others are numbers.

    Nothing of it is ever cut: on a terminal too narrow for it, each row becomes a list.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    for number, column in enumerate(columns):
        drawn.add_column(Text(column), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console = Console()
    width = Measurement.get(console, console.options.update(width=_UNBOUNDED), drawn).maximum
    if console.is_terminal and console.width < width:
        say("\n\n".join([title, *(_listed(columns, row) for row in rows)]))
        return
    console.width = max(width, cell_len(title))
    with console.capture() as text:
        console.print(drawn)
    say(text.get())


def _listed(columns: Sequence[str], row: Sequence[str]) -> str:
    """Return a row of a table as a list."""
    width = max(len(column) for column in columns[1:])
    return "\n".join(
        [row[0], *(f"  {name:<{width}}  {cell}" for name, cell in zip(columns[1:], row[1:], strict=True))]
    )


def facts(content: Mapping[str, Any]) -> None:
    """Print names and values, one a line."""
    width = max(len(name) for name in content)
    for name, value in content.items():
        say(f"{name:<{width}}  {value}")
