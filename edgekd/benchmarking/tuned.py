"""What a search for a session's settings found, as it stands in `edgekd.bench/1` under `tuning`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgekd.benchmarking.statistics import PairedRatio  # noqa: TC001

Settings = Mapping[str, int | bool | str]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One setting in one step.

    Attributes:
        session: The setting, in onnxruntime's words.
        p50_ms: Median of its blocks' medians, in ms.
        steady_bytes, peak_bytes: Its memory, as of `bench`; None where the device does not tell.
        ratio: Its latency over that of the step's first setting; None for that one.
        taken: Whether the search went on from here.
    """

    session: Settings
    p50_ms: float
    steady_bytes: int | None
    peak_bytes: int | None
    ratio: PairedRatio | None
    taken: bool


@dataclass(frozen=True, kw_only=True)
class Step:
    """One option varied: `threads`, `optimization`, `spinning` or `arena`; the best so far is the first candidate."""

    varied: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What came of a search.

    Attributes:
        default: onnxruntime's own settings.
        session: What to set: the winner, or the default where nothing is faster beyond the noise.
        improved: Whether that is faster than the default.
        ratio: Of what looked best over the default, from blocks that had no part in the search; None where nothing
            looked faster.
        arena_off_saves_bytes: What `session` would save of steady memory without an arena, where it was no slower so;
            None where it was, where it saves nothing to speak of, or where nobody knows.
        steps: The course of the search.
    """

    default: Settings
    session: Settings
    improved: bool
    ratio: PairedRatio | None
    arena_off_saves_bytes: int | None
    steps: tuple[Step, ...]
