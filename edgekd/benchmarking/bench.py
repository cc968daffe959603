"""The verb `bench`: how fast models are and what memory they take, on a device."""

from __future__ import annotations

from dataclasses import asdict, replace
from statistics import fmean, median
from typing import TYPE_CHECKING

from edgekd.benchmarking.blocks import (
    by_entry,
    measure,
    measured_target,
    median_bytes,
    profile_block,
    rehearse,
    run_block,
)
from edgekd.benchmarking.conditions import judge, without_times
from edgekd.benchmarking.energy import measure_energy
from edgekd.benchmarking.instructions import count_instructions
from edgekd.benchmarking.plan import make_plan
from edgekd.benchmarking.profiling import summarise as summarise_profile
from edgekd.benchmarking.results import BenchResult, Device, Latency, ModelResult
from edgekd.benchmarking.session_file import read_session
from edgekd.benchmarking.statistics import paired_ratio
from edgekd.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgekd.benchmarking.blocks import Block, Tried
    from edgekd.benchmarking.plan import Entry, Plan
    from edgekd.benchmarking.session_file import Setting
    from edgekd.devices import DeviceProfile
    from edgekd.drivers import Driver
    from edgekd.progress import Progress

# Fields of a result that an emulated device does not have.
_MEASURED = (
    *("load_ms", "first_run_ms", "latency_ms", "block_p50_ms", "warmed_up"),
    *("memory_bytes", "resident_bytes", "ratio_to_first", "samples_per_s"),
)


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
    arena: bool = True,
    session: str | Path | None = None,
    profile: bool = False,
    progress: Progress = SILENT,
) -> BenchResult:
    """Measure models on a device: latency with bounds, and memory by phase.

    Every model is first tried on the device, once. An emulated device is asked for no more than that, and for the
    number of instructions where it counts them (docs/devices.md): its times and memory would be the emulator's. On
    others, each of `repeats` blocks of each model is measured in a fresh process, the models interleaved. A
    repetition during which other work kept the machine busy, or something slowed its processor down, is measured
    again, `RETAKES` times in all. Latencies are pooled over the blocks; memory is their median. Where the device has
    a sensor of power or energy, each model then runs in fresh processes again, and what its inferences cost above an
    idle baseline is measured.

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
        arena: Whether the sessions keep the memory of freed tensors for the next ones: onnxruntime does by default.
        session: A file of settings that `tune` found, instead of `threads` and `arena`.
        profile: Whether each model then also runs under onnxruntime's profiler, in a process of its own. On an
            emulated device none is made.
        progress: Hears of every block.

    Raises:
        UsageError: an argument is impossible, or no model has an axis that `dims` names.
        ModelError: a model is missing, is not an ONNX file or does not run; before anything is measured.
        DataError: `data` does not hold what a model takes, or `session` is no file of settings.
        DeviceError: the device failed.
    """
    from edgekd.devices import load_profile
    from edgekd.drivers import open_driver

    device_profile = load_profile(device)
    plan = make_plan(
        models,
        threads=threads,
        duration_s=duration_s,
        runs=runs,
        repeats=repeats,
        data=data,
        dims=dims or {},
        arena=arena,
    )
    if session is not None:
        plan = _with_setting(plan, read_session(session))
    with open_driver(device_profile) as driver:
        tried = rehearse(driver, plan)
        if driver.emulated:
            return _emulated(driver, plan, tried, device)
        return _measured(driver, plan, tried, device_profile, profiles=profile, progress=progress)


def _with_setting(plan: Plan, setting: Setting) -> Plan:
    """Return the plan with every model once, in a session of this setting."""
    changed = (replace(entry, threads=setting.threads, session=setting.session) for entry in plan.entries)
    return replace(plan, entries=tuple(dict.fromkeys(changed)))


def _measured(
    driver: Driver,
    plan: Plan,
    tried: Mapping[str, Tried],
    device: DeviceProfile,
    *,
    profiles: bool,
    progress: Progress,
) -> BenchResult:
    """Return what a real device is good for: time, memory and energy."""
    repetitions, retaken = measure(driver, plan, tried, progress)
    sensor, energies = measure_energy(driver, plan, tried, progress)
    profiled = _profile(driver, plan, tried, progress) if profiles else None
    spans = [repetition.span for repetition in repetitions]
    blocks = by_entry(repetitions)
    measured = summarise(plan, blocks, profiled)
    return BenchResult(
        device=Device(name=device.name, target=measured_target(device, spans)),
        conditions=judge(spans, retaken=retaken, onnxruntime=blocks[0][0]["onnxruntime"], power_sensor=sensor),
        models=tuple(replace(model, energy=energy) for model, energy in zip(measured, energies, strict=True)),
    )


def _profile(driver: Driver, plan: Plan, tried: Mapping[str, Tried], progress: Progress) -> list[Block]:
    """Return what the profiler says of every entry."""
    found = []
    with progress.task("profile", len(plan.entries)) as task:
        for entry in plan.entries:
            found.append(profile_block(driver, plan, entry, tried[entry.path].place))
            task.advance(1, entry.words)
    return found


def _emulated(driver: Driver, plan: Plan, tried: Mapping[str, Tried], device: str) -> BenchResult:
    """Return what an emulated device is good for: that the models run there, and at best how many instructions take.

    No time and no memory is its own.
    """

    def instructions(entry: Entry) -> int | None:
        if entry.threads > 1:
            return None  # threads that wait for work count too
        place = tried[entry.path].place
        return count_instructions(
            driver, lambda runs: run_block(driver, plan, entry, place, rehearsal=True, more_runs=runs)
        )

    models = tuple(
        ModelResult(
            path=entry.path,
            sha256=entry.sha256,
            threads=entry.threads,
            session=asdict(entry.session),
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


def summarise(
    plan: Plan, blocks: Sequence[Sequence[Block]], profiles: Sequence[Block] | None = None
) -> tuple[ModelResult, ...]:
    """Return the result of every entry from its blocks, and from what its profile says where one was made."""
    results: list[ModelResult] = []
    first: dict[int, ModelResult] = {}
    for entry, own in zip(plan.entries, blocks, strict=True):
        result = _summarise_one(entry, own, first.get(entry.threads))
        first.setdefault(entry.threads, result)
        results.append(result)
    if profiles is not None:
        results = [
            replace(result, profile=summarise_profile(profile, result.latency_ms.p50))
            for result, profile in zip(results, profiles, strict=True)
            if result.latency_ms is not None
        ]
    return tuple(results)


# Times are rounded to 1e-6 ms, which is the clock's own unit.
def _summarise_one(entry: Entry, blocks: Sequence[Block], first: ModelResult | None) -> ModelResult:
    medians = tuple(round(median(block["samples_ms"]), 6) for block in blocks)
    return ModelResult(
        path=entry.path,
        sha256=entry.sha256,
        threads=entry.threads,
        session=asdict(entry.session),
        inputs=blocks[0]["inputs"],
        repetitions=len(blocks),
        load_ms=round(median(block["load_ms"] for block in blocks), 6),
        first_run_ms=round(median(block["first_run_ms"] for block in blocks), 6),
        latency_ms=Latency.of([block["samples_ms"] for block in blocks]),
        block_p50_ms=medians,
        warmed_up=all(block["warm_up"]["steady"] for block in blocks),
        memory_bytes=median_bytes(blocks, "memory_bytes"),
        resident_bytes=median_bytes(blocks, "resident_bytes"),
        ratio_to_first=None if first is None else paired_ratio(medians, first.block_p50_ms or ()),
        samples_per_s=_samples_per_s(blocks),
    )


def _samples_per_s(blocks: Sequence[Block]) -> float:
    shape: list[int] = next((declared["shape"] for declared in blocks[0]["inputs"].values()), [])
    mean_ms = fmean(sample for block in blocks for sample in block["samples_ms"])
    return round((shape[0] if shape else 1) * 1000 / mean_ms, 3)
