"""The verb `bench`: how fast models are and what memory they take, on a device."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from edgekd.benchmarking.conditions import Span, judge, without_times
from edgekd.benchmarking.instructions import count_instructions
from edgekd.benchmarking.plan import make_plan
from edgekd.benchmarking.results import BenchResult, Device, Latency, ModelResult
from edgekd.benchmarking.shipping import RUNNER, ship_model
from edgekd.benchmarking.statistics import paired_ratio
from edgekd.errors import DeviceError, UsageError
from edgekd.progress import SILENT
from edgekd.temporary import temporary_folder
from edgekd.text import counted, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgekd.benchmarking.plan import Entry, Plan
    from edgekd.drivers import Driver
    from edgekd.progress import Progress, Task

RETAKES = 3
_SEED = 0
# Fields of a result that an emulated device does not have.
_MEASURED = (
    *("load_ms", "first_run_ms", "latency_ms", "block_p50_ms"),
    *("warmed_up", "memory_bytes", "ratio_to_first", "samples_per_s"),
)

# What the runner says of one block; see the head of runner.py for the keys.
Block = dict[str, Any]


def bench(
    models: Sequence[str | Path],
    *,
    device: str = "local",
    threads: Sequence[int] = (1,),
    duration_s: float | None = None,
    runs: int | None = None,
    repeats: int = 6,
    data: str | Path | None = None,
    dims: Mapping[str, int] | None = None,
    progress: Progress = SILENT,
) -> BenchResult:
    """Measure models on a device: latency with bounds, and memory by phase.

    Every model is first tried on the device, once. An emulated device is asked for no more than that, and for the
    number of instructions where it counts them (docs/devices.md): its times and memory would be the emulator's. On
    others, each of `repeats` blocks of each model is measured in a fresh process, the models interleaved. A
    repetition during which other work kept the machine busy, or something slowed its processor down, is measured
    again, `RETAKES` times in all. Latencies are
    pooled over the blocks; memory is their median.

    Args:
        models: ONNX files. The first is the one that others are compared with.
        device: Name of a device profile.
        threads: Numbers of intra-op threads to measure each model with.
        duration_s: Time of the timed runs of one model in seconds, over all its blocks; None is 2 s, unless
            `runs` is given. At least 7 runs are timed, the least that bound a median.
        runs: Number of timed runs of one model over all its blocks, instead of a time. If it is below `repeats`
            there are fewer blocks.
        repeats: Blocks of each model; even, so that every model comes first as often. From six on the interval of a
            ratio is one of 95 %.
        data: An .npz file with arrays named like the models' inputs, of which the first rows are used. None: made
            up from the declared types (floats normal, integers 0 or 1, masks of ones).
        dims: Sizes of dynamic axes by name; others are 1.
        progress: Hears of every block.

    Raises:
        UsageError: an argument is impossible, or no model has an axis that `dims` names.
        ModelError: a model is missing, is not an ONNX file or does not run; before anything is measured.
        DataError: `data` does not hold what a model takes.
        DeviceError: the device failed.
    """
    from edgekd.devices import load_profile
    from edgekd.drivers import open_driver

    profile = load_profile(device)
    plan = make_plan(
        models, threads=threads, duration_s=duration_s, runs=runs, repeats=repeats, data=data, dims=dims or {}
    )
    with open_driver(profile) as driver:
        tried = _rehearse(driver, plan)
        if driver.emulated:
            return _emulated(driver, plan, tried, device)
        repetitions, retaken = _measure(driver, plan, tried, progress)
    spans = [repetition.span for repetition in repetitions]
    blocks = [[repetition.blocks[index] for repetition in repetitions] for index in range(len(plan.entries))]
    conditions = judge(spans, retaken=retaken, onnxruntime=blocks[0][0]["onnxruntime"])
    target = spans[0].before.target if profile.target == "auto" else profile.target
    return BenchResult(
        device=Device(name=device, target=target), conditions=conditions, models=_summarise(plan, blocks)
    )


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """Where a model is on the device, and what its first run there said."""

    place: str
    block: Block


def _rehearse(driver: Driver, plan: Plan) -> dict[str, _Tried]:
    """Load and run every model once on the device, so that a faulty one is found before anything is measured."""
    tried: dict[str, _Tried] = {}
    for entry in {entry.path: entry for entry in plan.entries}.values():
        place = ship_model(driver, Path(entry.path))
        tried[entry.path] = _Tried(place=place, block=_run(driver, plan, entry, place, rehearsal=True))
    known = {name for one in tried.values() for name in one.block["dynamic_axes"]}
    for name in plan.dims:
        if name not in known:
            has = ", ".join(sorted(known)) or "none"
            raise UsageError(f"no model has a dynamic axis {name!r}{nearest(name, known)}; named axes: {has}")
    return tried


def _emulated(driver: Driver, plan: Plan, tried: Mapping[str, _Tried], device: str) -> BenchResult:
    """Return what an emulated device is good for: that the models run there, and at best how many instructions take.

    No time and no memory is its own.
    """

    def instructions(entry: Entry) -> int | None:
        if entry.threads > 1:
            return None  # threads that wait for work count too
        place = tried[entry.path].place
        return count_instructions(
            driver, lambda runs: _run(driver, plan, entry, place, rehearsal=True, more_runs=runs)
        )

    models = tuple(
        ModelResult(
            path=entry.path,
            sha256=entry.sha256,
            threads=entry.threads,
            inputs=tried[entry.path].block["inputs"],
            repetitions=0,
            instructions=instructions(entry),
            **dict.fromkeys(_MEASURED),
        )
        for entry in plan.entries
    )
    facts = driver.probe()
    conditions = without_times(facts, onnxruntime=tried[plan.entries[0].path].block["onnxruntime"])
    return BenchResult(device=Device(name=device, target=facts.target), conditions=conditions, models=models)


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """One block of every entry, in the order of the entries, and the circumstances."""

    blocks: Sequence[Block]
    span: Span


def _measure(
    driver: Driver, plan: Plan, tried: Mapping[str, _Tried], progress: Progress
) -> tuple[list[Repetition], int]:
    """Measure all repetitions in the order of the plan; return them, and how many were measured again."""
    kept: list[Repetition] = []
    retaken = 0
    with progress.task("bench", plan.repeats * len(plan.entries)) as task:
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
    driver: Driver, plan: Plan, tried: Mapping[str, _Tried], repetition: int, task: Task, *, again: str | None
) -> Repetition:
    """Measure one block of every entry; `again` says what had spoilt it before."""
    before, start = driver.probe(), time.monotonic()
    blocks: dict[int, Block] = {}
    for index in plan.order(repetition):
        entry = plan.entries[index]
        blocks[index] = _run(driver, plan, entry, tried[entry.path].place, repetition=repetition)
        note = f"{Path(entry.path).name}, {counted(entry.threads, 'thread')}"
        task.advance(0 if again else 1, f"{note}, again: {again}" if again else note)
    own_cpu_s = sum(block["cpu_s"] for block in blocks.values())
    span = Span(before=before, after=driver.probe(), own_cpu_s=own_cpu_s, elapsed_s=time.monotonic() - start)
    return Repetition(blocks=[blocks[index] for index in range(len(plan.entries))], span=span)


def _run(
    driver: Driver,
    plan: Plan,
    entry: Entry,
    place: str,
    *,
    repetition: int = 0,
    rehearsal: bool = False,
    more_runs: int = 0,
) -> Block:
    from edgekd.drivers.jobs import run_job

    journal = None if rehearsal or driver.on_this_machine else f"samples-{uuid.uuid4().hex}.jsonl"
    job = {
        "model": place,
        "sha256": entry.sha256,
        "threads": entry.threads,
        "data": None if plan.data is None else driver.push(plan.data),
        "dims": dict(plan.dims),
        "seed": _SEED,
        "runs": plan.runs[repetition],
        "duration_s": plan.duration_s,
        "rehearsal": rehearsal,
        "more_runs": more_runs,
        "journal": journal,
    }
    subjects = {"model": entry.path, "data": str(plan.data), "device": f"device {driver.name}"}
    try:
        return run_job(driver, RUNNER, job, subjects)
    except DeviceError as error:
        if journal is None:
            raise
        done = counted(_journalled(driver, journal), "timed run")
        raise DeviceError(f"{error} ({done} had been made)") from error


def _journalled(driver: Driver, journal: str) -> int:
    """Return how many timed runs a failed process left in its journal."""
    with temporary_folder() as folder:
        try:
            driver.pull(journal, folder / journal)
        except DeviceError:
            return 0  # none, or the device is gone
        lines = (folder / journal).read_text(encoding="ascii").splitlines()
    return sum(len(json.loads(line)["samples_ms"]) for line in lines if line.endswith("}"))


def _summarise(plan: Plan, blocks: Sequence[Sequence[Block]]) -> tuple[ModelResult, ...]:
    results: list[ModelResult] = []
    first: dict[int, ModelResult] = {}
    for entry, own in zip(plan.entries, blocks, strict=True):
        result = _summarise_one(entry, own, first.get(entry.threads))
        first.setdefault(entry.threads, result)
        results.append(result)
    return tuple(results)


# Times are rounded to 1e-6 ms, which is the clock's own unit.
def _summarise_one(entry: Entry, blocks: Sequence[Block], first: ModelResult | None) -> ModelResult:
    medians = tuple(round(median(block["samples_ms"]), 6) for block in blocks)
    return ModelResult(
        path=entry.path,
        sha256=entry.sha256,
        threads=entry.threads,
        inputs=blocks[0]["inputs"],
        repetitions=len(blocks),
        load_ms=round(median(block["load_ms"] for block in blocks), 6),
        first_run_ms=round(median(block["first_run_ms"] for block in blocks), 6),
        latency_ms=Latency.of([block["samples_ms"] for block in blocks]),
        block_p50_ms=medians,
        warmed_up=all(block["warm_up"]["steady"] for block in blocks),
        memory_bytes={phase: _median_bytes(blocks, phase) for phase in blocks[0]["memory_bytes"]},
        ratio_to_first=None if first is None else paired_ratio(medians, first.block_p50_ms or ()),
        samples_per_s=_samples_per_s(blocks),
    )


def _samples_per_s(blocks: Sequence[Block]) -> float:
    shape: list[int] = next((declared["shape"] for declared in blocks[0]["inputs"].values()), [])
    mean_ms = fmean(sample for block in blocks for sample in block["samples_ms"])
    return round((shape[0] if shape else 1) * 1000 / mean_ms, 3)


def _median_bytes(blocks: Sequence[Block], phase: str) -> int | None:
    known = [block["memory_bytes"][phase] for block in blocks]
    return None if None in known else round(median(known))
