"""Blocks on a device: a model is tried there once, then measured in fresh processes, in repetitions."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from edgekd.benchmarking.conditions import Span
from edgekd.benchmarking.shipping import METERED, PACED, PROFILED, RUNNER, ship_model
from edgekd.errors import DeviceError, UsageError
from edgekd.temporary import temporary_folder
from edgekd.text import counted, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgekd.benchmarking.plan import Entry, Plan
    from edgekd.devices import DeviceProfile
    from edgekd.drivers import Driver
    from edgekd.progress import Progress, Task

RETAKES = 3
THREADS_A_CORE = 4
_SEED = 0

# What the runner says of one block; see the head of runner.py for the keys.
Block = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """Where a model is on the device, and what its first run there said."""

    place: str
    block: Block


def rehearse(driver: Driver, plan: Plan) -> dict[str, Tried]:
    """Load and run every model once on the device, so that a faulty one is found before anything is measured."""
    _require_threads(driver, plan)
    tried: dict[str, Tried] = {}
    for entry in {entry.path: entry for entry in plan.entries}.values():
        place = ship_model(driver, Path(entry.path))
        tried[entry.path] = Tried(place=place, block=run_block(driver, plan, entry, place, rehearsal=True))
    known = {name for one in tried.values() for name in one.block["dynamic_axes"]}
    for name in plan.dims:
        if name not in known:
            has = ", ".join(sorted(known)) or "none"
            raise UsageError(f"no model has a dynamic axis {name!r}{nearest(name, known)}; named axes: {has}")
    return tried


def _require_threads(driver: Driver, plan: Plan) -> None:
    """Refuse numbers of threads that say nothing of the device: its cores would only change between them."""
    most = max(entry.threads for entry in plan.entries)
    if most <= THREADS_A_CORE:
        return
    cores = driver.probe().logical_cores
    if cores is not None and most > THREADS_A_CORE * cores:
        raise UsageError(
            f"threads: {driver.name} has {counted(cores, 'core')}, so at most {THREADS_A_CORE * cores} threads "
            f"({THREADS_A_CORE} a core) can be measured there, got {most}"
        )


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """One block of every entry, in the order of the entries, and the circumstances."""

    blocks: Sequence[Block]
    span: Span


def measure(
    driver: Driver, plan: Plan, tried: Mapping[str, Tried], progress: Progress, *, title: str = "bench"
) -> tuple[list[Repetition], int]:
    """Measure all repetitions in the order of the plan; return them, and how many were measured again."""
    kept: list[Repetition] = []
    retaken = 0
    with progress.task(title, plan.repeats * len(plan.entries)) as task:
        again: str | None = None
        while len(kept) < plan.repeats:
            repetition = _repeat(driver, plan, tried, len(kept), task, again=again)
            again = repetition.span.taint if retaken < RETAKES else None
            if again is not None:
                retaken += 1
            else:
                kept.append(repetition)
    return kept, retaken


def _repeat(
    driver: Driver, plan: Plan, tried: Mapping[str, Tried], repetition: int, task: Task, *, again: str | None
) -> Repetition:
    """Measure one block of every entry; `again` says what had spoilt it before."""
    before, start = driver.probe(), time.monotonic()
    blocks: dict[int, Block] = {}
    for index in plan.order(repetition):
        entry = plan.entries[index]
        blocks[index] = run_block(driver, plan, entry, tried[entry.path].place, repetition=repetition)
        task.advance(0 if again else 1, f"{entry.words}, again: {again}" if again else entry.words)
    own_cpu_s = sum(block["cpu_s"] for block in blocks.values())
    span = Span(before=before, after=driver.probe(), own_cpu_s=own_cpu_s, elapsed_s=time.monotonic() - start)
    return Repetition(blocks=[blocks[index] for index in range(len(plan.entries))], span=span)


def by_entry(repetitions: Sequence[Repetition]) -> list[list[Block]]:
    """Return the blocks of every entry, in the order of time."""
    return [list(blocks) for blocks in zip(*(repetition.blocks for repetition in repetitions), strict=True)]


def measured_target(profile: DeviceProfile, spans: Sequence[Span]) -> str:
    """Return the instruction set of a profile, or what the device itself told where that says `auto`."""
    return spans[0].before.target if profile.target == "auto" else profile.target


def median_bytes(blocks: Sequence[Block], figures: str) -> dict[str, int | None]:
    """Return the median over the blocks of each of several figures; None where a block lacks it."""
    found: dict[str, int | None] = {}
    for name in blocks[0][figures]:
        known = [block[figures][name] for block in blocks]
        found[name] = None if None in known else round(median(known))
    return found


def run_block(
    driver: Driver,
    plan: Plan,
    entry: Entry,
    place: str,
    *,
    repetition: int = 0,
    rehearsal: bool = False,
    more_runs: int = 0,
) -> Block:
    """Measure one block of an entry, or with `rehearsal` run it once and `more_runs` times only.

    Raises:
        ModelError, DataError, DeviceError: as the device says; the last tells how many timed runs had been made.
    """
    from edgekd.drivers.jobs import run_job

    is_paced = plan.rate_per_s is not None and not rehearsal
    journal = None if rehearsal or is_paced or driver.on_this_machine else f"samples-{uuid.uuid4().hex}.jsonl"
    job = _job(driver, plan, entry, place) | {
        "runs": plan.runs[repetition],
        "rehearsal": rehearsal,
        "more_runs": more_runs,
        "journal": journal,
    }
    subjects = _subjects(driver, plan, entry)
    if is_paced:
        return run_job(driver, PACED, {**job, "rate_per_s": plan.rate_per_s}, subjects, [RUNNER.name])
    try:
        return run_job(driver, RUNNER, job, subjects)
    except DeviceError as error:
        if journal is None:
            raise
        done = counted(_journalled(driver, journal), "timed run")
        raise DeviceError(f"{error} ({done} had been made)") from error


def meter_block(driver: Driver, plan: Plan, entry: Entry, place: str, *, phase_s: float, polled: bool) -> Block:
    """Meter the energy of an entry, in a process that times nothing; see `metered.py`.

    Raises:
        ModelError, DataError, DeviceError: as the device says.
    """
    from edgekd.drivers.jobs import run_job

    job = _job(driver, plan, entry, place) | {"phase_s": phase_s, "polled": polled}
    return run_job(driver, METERED, job, _subjects(driver, plan, entry), [RUNNER.name])


def profile_block(driver: Driver, plan: Plan, entry: Entry, place: str) -> Block:
    """Run an entry under onnxruntime's profiler, in a process that measures nothing else; see `profiled.py`.

    Raises:
        ModelError, DataError, DeviceError: as the device says.
    """
    from edgekd.drivers.jobs import run_job

    job = _job(driver, plan, entry, place)
    return run_job(driver, PROFILED, job, _subjects(driver, plan, entry), [RUNNER.name])


def _job(driver: Driver, plan: Plan, entry: Entry, place: str) -> dict[str, Any]:
    return {
        "model": place,
        "sha256": entry.sha256,
        "threads": entry.threads,
        "data": None if plan.data is None else driver.push(plan.data),
        "dims": dict(plan.dims),
        "seed": _SEED,
        "duration_s": plan.duration_s,
        "session": asdict(entry.session),
    }


def _subjects(driver: Driver, plan: Plan, entry: Entry) -> dict[str, str]:
    return {"model": entry.path, "data": str(plan.data), "device": f"device {driver.name}"}


def _journalled(driver: Driver, journal: str) -> int:
    """Return how many timed runs a failed process left in its journal."""
    with temporary_folder() as folder:
        try:
            driver.pull(journal, folder / journal)
        except DeviceError:
            return 0  # none, or the device is gone
        lines = (folder / journal).read_text(encoding="ascii").splitlines()
    return sum(len(json.loads(line)["samples_ms"]) for line in lines if line.endswith("}"))
