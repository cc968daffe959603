"""`bench --tune`: which settings of a session are faster than onnxruntime's own, beyond the noise.

One setting is varied after the other, from onnxruntime's own on: threads, how far the graph is optimized, spinning,
the arena. The best so far and its alternatives are measured in interleaved blocks in fresh processes, and an
alternative is taken only if its paired ratio is beyond the interval and the noise floor. Among several alternatives
the luckiest looks better than it is, so what was taken is measured against the default once more, with new blocks:
these alone decide.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Final

from edgekd.benchmarking.bench import summarise
from edgekd.benchmarking.blocks import by_entry, measure, measured_target, median_bytes, rehearse
from edgekd.benchmarking.conditions import judge
from edgekd.benchmarking.plan import Entry, make_plan
from edgekd.benchmarking.results import BenchResult, Device
from edgekd.benchmarking.session_file import DEFAULT, Setting
from edgekd.benchmarking.statistics import paired_ratio
from edgekd.benchmarking.tuned import Candidate, Step, Tuning
from edgekd.errors import UsageError
from edgekd.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgekd.benchmarking.blocks import Block, Tried
    from edgekd.benchmarking.conditions import Span
    from edgekd.benchmarking.plan import Plan
    from edgekd.benchmarking.results import ModelResult
    from edgekd.drivers import Driver
    from edgekd.progress import Progress

DEFAULT_DURATION_S: Final = 1.2  # of one setting over its blocks
REPEATS: Final = 6  # the fewest with an interval of 95 %
LAST_REPEATS: Final = 10  # against the default, with the setting that looked best
_WORTH_SAYING: Final = 0.01  # a saving of memory, as a share


def tune(
    model: str | Path,
    *,
    device: str = "local",
    threads: Sequence[int] | None = None,
    duration_s: float | None = None,
    data: str | Path | None = None,
    dims: Mapping[str, int] | None = None,
    progress: Progress = SILENT,
) -> BenchResult:
    """Search for a session's settings that are faster than onnxruntime's own on a device.

    Args:
        model: An ONNX file.
        device: Name of a device profile; not an emulated one.
        threads: Numbers of intra-op threads to try besides onnxruntime's own; None is 1, 2, 4, ... and the number of
            cores.
        duration_s: Time of the timed runs of one setting in each comparison, in seconds; None is 1.2 s.
        data: As of `bench`.
        dims: As of `bench`.
        progress: Hears of every block.

    Returns:
        A result whose `tuning` says what was tried and found; its models are the default and what was found.

    Raises:
        UsageError: an argument is impossible, or the device is emulated: it has no time of its own.
        ModelError, DataError, DeviceError: as of `bench`.
    """
    from edgekd.devices import load_profile
    from edgekd.drivers import open_driver

    profile = load_profile(device)
    counts = (1,) if threads is None else tuple(threads)
    plans = [
        make_plan(
            [model],
            threads=counts,
            duration_s=(duration_s or DEFAULT_DURATION_S) * repeats / REPEATS,
            runs=None,
            repeats=repeats,
            data=data,
            dims=dims or {},
        )
        for repeats in (REPEATS, LAST_REPEATS)
    ]
    driver = open_driver(profile)
    if driver.emulated:
        raise UsageError(f"{device} is emulated: it has no time of its own to tune for; name a real device")
    with driver:
        search = _Search(driver, rehearse(driver, plans[0]), progress)
        cores = driver.probe().logical_cores or 1
        found = search.descend(plans[0], counts if threads is not None else thread_counts(cores))
        tuning = search.confirm(plans[1], found)
    spans = search.spans
    target = measured_target(profile, spans)
    return BenchResult(
        device=Device(name=device, target=target),
        conditions=judge(spans, retaken=search.retaken, onnxruntime=search.onnxruntime),
        models=search.rows(),
        tuning=tuning,
    )


def thread_counts(cores: int) -> tuple[int, ...]:
    """Return the numbers of threads to try: 1, 2, 4, ... and the number of cores."""
    return tuple(sorted({*(2**power for power in range(cores.bit_length())), cores}))


def alternatives(varied: str, current: Setting, threads: Sequence[int]) -> list[Setting]:
    """Return what to try in place of a setting when one option of it is varied."""
    session = current.session
    if varied == "threads":
        return [replace(current, threads=count) for count in threads if count != current.threads]
    if varied == "optimization":
        return [replace(current, session=replace(session, optimization=level)) for level in ("extended", "basic")]
    if varied == "spinning":  # one thread never waits for another
        return [] if current.threads == 1 else [replace(current, session=replace(session, spinning=False))]
    return [replace(current, session=replace(session, arena=False))]


VARIED: Final = ("threads", "optimization", "spinning", "arena")


@dataclass
class _Search:
    """The course of a search: what has been measured so far."""

    driver: Driver
    tried: Mapping[str, Tried]
    progress: Progress
    steps: list[Step] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    retaken: int = 0
    onnxruntime: str = ""
    last: tuple[Plan, list[list[Block]]] | None = None

    def rows(self) -> tuple[ModelResult, ...]:
        """Return the results of the last comparison."""
        assert self.last is not None
        return summarise(*self.last)

    def descend(self, plan: Plan, threads: Sequence[int]) -> Setting:
        """Vary one option after the other, and return the setting that looked best."""
        current = DEFAULT
        for varied in VARIED:
            others = alternatives(varied, current, threads)
            if others:
                current = self._step(plan, varied, [current, *others])
        return current

    def confirm(self, plan: Plan, found: Setting) -> Tuning:
        """Measure a setting against the default once more, with new blocks, and return what came of it."""
        ratio = None
        if found != DEFAULT:
            blocks = self._measure(plan, [DEFAULT, found], "tune: against the default")
            ratio = paired_ratio(_medians(blocks[1]), _medians(blocks[0]))
        improved = ratio is not None and ratio.verdict == "faster"
        final = found if improved else DEFAULT
        return Tuning(
            default=DEFAULT.to_json(),
            session=final.to_json(),
            improved=improved,
            ratio=ratio,
            arena_off_saves_bytes=_saving(self.steps, final),
            steps=tuple(self.steps),
        )

    def _step(self, plan: Plan, varied: str, settings: Sequence[Setting]) -> Setting:
        """Measure settings side by side, and return the fastest that is faster than the first, or the first."""
        blocks = self._measure(plan, settings, f"tune: {varied}")
        base = _medians(blocks[0])
        ratios = [None, *(paired_ratio(_medians(own), base) for own in blocks[1:])]
        better = {
            index: ratio.median
            for index, ratio in enumerate(ratios)
            if ratio is not None and ratio.verdict == "faster"
        }
        best = min(better, key=lambda index: better[index], default=0)
        self.steps.append(
            Step(
                varied=varied,
                candidates=tuple(
                    Candidate(
                        session=setting.to_json(),
                        p50_ms=round(median(_medians(own)), 6),
                        steady_bytes=median_bytes(own, "memory_bytes")["steady"],
                        peak_bytes=median_bytes(own, "memory_bytes")["peak"],
                        ratio=ratio,
                        taken=index == best,
                    )
                    for index, (setting, own, ratio) in enumerate(zip(settings, blocks, ratios, strict=True))
                ),
            )
        )
        return settings[best]

    def _measure(self, plan: Plan, settings: Sequence[Setting], title: str) -> list[list[Block]]:
        """Return the blocks of every setting, interleaved in time."""
        first = plan.entries[0]
        entries = tuple(
            Entry(path=first.path, sha256=first.sha256, threads=setting.threads, session=setting.session)
            for setting in settings
        )
        plan = replace(plan, entries=entries)
        repetitions, retaken = measure(self.driver, plan, self.tried, self.progress, title=title)
        blocks = by_entry(repetitions)
        self.spans += [repetition.span for repetition in repetitions]
        self.retaken += retaken
        self.onnxruntime = blocks[0][0]["onnxruntime"]
        self.last = plan, blocks
        return blocks


def _medians(blocks: Sequence[Block]) -> list[float]:
    return [median(block["samples_ms"]) for block in blocks]


def _saving(steps: Sequence[Step], final: Setting) -> int | None:
    """Return what the final setting would save of steady memory without an arena, if it was no slower so."""
    for step in steps:
        if step.varied != "arena" or step.candidates[0].session != final.to_json():
            continue
        with_arena, without = step.candidates
        if without.ratio is None or without.ratio.verdict != "none":
            return None
        if with_arena.steady_bytes is None or without.steady_bytes is None:
            return None
        saved = with_arena.steady_bytes - without.steady_bytes
        return saved if saved > _WORTH_SAYING * with_arena.steady_bytes else None
    return None
