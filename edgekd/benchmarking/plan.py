"""What a benchmark does, from what its caller asked for: which models, in which order, how long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.artifact import sha256_file
from edgekd.benchmarking.statistics import runs_needed
from edgekd.errors import DataError, ModelError, UsageError
from edgekd.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_DURATION_S = 2.0
FEWEST_FRAMES = 44  # the least that bound p90
MOST_THREADS = 256  # onnxruntime starts them all; some thousands are more than a system grants a process


@dataclass(frozen=True, kw_only=True)
class Session:
    """Options of an onnxruntime session.

    Attributes:
        arena: It keeps the memory of freed tensors for the next ones.
        spinning: Its idle threads wait for work in a loop instead of asleep.
        optimization: How far the graph is optimized: "all", "extended" (no layouts), "basic" or "none".
    """

    arena: bool = True
    spinning: bool = True
    optimization: str = "all"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model with one number of threads and one session's options."""

    path: str
    sha256: str
    threads: int
    session: Session = Session()

    @property
    def words(self) -> str:
        """What it is, for people: the file's name, the threads, and what else is not onnxruntime's own."""
        parts = [Path(self.path).name, counted(self.threads, "thread") if self.threads else "threads by default"]
        parts += [] if self.session.spinning else ["not spinning"]
        parts += [] if self.session.arena else ["no arena"]
        parts += [] if self.session.optimization == "all" else [f"optimization {self.session.optimization}"]
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings that took effect.

    Attributes:
        entries: What is measured.
        repeats: Blocks of each entry; a block is one repetition, in a fresh process.
        duration_s: Least time of the timed runs of one block, in seconds.
        runs: Least number of timed runs of the blocks of each repetition.
        data: An .npz with the inputs, or None.
        dims: Sizes of dynamic axes by name.
        rate_per_s: How often inputs come in; None for one after the other. Runs are then inputs.
    """

    entries: tuple[Entry, ...]
    repeats: int
    duration_s: float
    runs: tuple[int, ...]
    data: Path | None
    dims: Mapping[str, int]
    rate_per_s: float | None = None

    def order(self, repetition: int) -> Sequence[int]:
        """Return the entries, by index, in the order in which a repetition measures them: A B, then B A, A B, ...

        Neighbours in time make a pair, and each comes first equally often, so slow drift of the machine does not
        favour any.
        """
        forth = range(len(self.entries))
        return forth if repetition % 2 == 0 else forth[::-1]


def make_plan(
    models: Sequence[str | Path],
    *,
    threads: Sequence[int],
    duration_s: float | None,
    runs: int | None,
    repeats: int,
    data: str | Path | None,
    dims: Mapping[str, int],
    arena: bool = True,
    rate_per_s: float | None = None,
) -> Plan:
    """Check what `bench` or `pace` was asked for and settle what it left open.

    With a rate, each model is measured with threads that spin and with threads that do not.

    Raises:
        UsageError: an argument is impossible.
        ModelError, DataError: a file is missing or cannot be read.
    """
    paths = [models] if isinstance(models, str | Path) else models
    _check(bool(paths), "no model to measure")
    _check(
        bool(threads) and all(1 <= count <= MOST_THREADS for count in threads),
        f"threads: expected numbers from 1 to {MOST_THREADS}, got {', '.join(map(str, threads)) or 'none'}",
    )
    block_s, block_runs = _blocks(duration_s=duration_s, runs=runs, repeats=repeats, rate_per_s=rate_per_s)
    for name, size in dims.items():
        _check(size >= 1, f"size of the axis {name!r}: expected 1 or more, got {size}")
    if data is not None and not Path(data).is_file():
        raise DataError(f"{data}: no such file; expected an .npz")
    files = [(str(path), sha256_file(Path(path), ModelError)) for path in paths]
    spinning = (True,) if rate_per_s is None else (True, False)
    return Plan(
        entries=tuple(
            Entry(path=path, sha256=sha256, threads=count, session=Session(arena=arena, spinning=spins))
            for count in threads
            for path, sha256 in files
            for spins in spinning
        ),
        repeats=len(block_runs),
        duration_s=block_s,
        runs=block_runs,
        data=None if data is None else Path(data),
        dims=dict(dims),
        rate_per_s=rate_per_s,
    )


def _blocks(
    *, duration_s: float | None, runs: int | None, repeats: int, rate_per_s: float | None
) -> tuple[float, tuple[int, ...]]:
    """Return the least seconds of every block of a model, and the least runs of each."""
    _check(duration_s is None or runs is None, "give either a duration or a number of runs, not both")
    _check(duration_s is None or 0 < duration_s < math.inf, f"duration: expected seconds above 0, got {duration_s}")
    _check(runs is None or runs >= 1, f"runs: expected 1 or more, got {runs}")
    _check(repeats >= 2 and repeats % 2 == 0, f"repeats: expected an even number from 2 on, got {repeats}")
    _check(rate_per_s is None or 0 < rate_per_s < math.inf, f"rate: expected inputs a second, got {rate_per_s}")
    if runs is not None and runs < repeats:
        repeats = max(1, runs // 2 * 2)
    if rate_per_s is None:
        total, block_s = runs or runs_needed(0.5), 0.0 if runs else (duration_s or DEFAULT_DURATION_S) / repeats
    else:
        asked = math.ceil((duration_s or DEFAULT_DURATION_S) * rate_per_s)
        total, block_s = runs or max(asked, FEWEST_FRAMES), 0.0
    return block_s, tuple(total // repeats + (block < total % repeats) for block in range(repeats))


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UsageError(otherwise)
