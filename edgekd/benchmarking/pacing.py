"""`bench` at a pace: what an app feels whose inputs come in at a fixed rate, such as a camera's frames."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekd.benchmarking.blocks import by_entry, measure, measured_target, rehearse
from edgekd.benchmarking.conditions import Conditions, judge
from edgekd.benchmarking.plan import make_plan
from edgekd.benchmarking.results import Device, Latency
from edgekd.errors import UsageError
from edgekd.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgekd.benchmarking.blocks import Block
    from edgekd.benchmarking.plan import Entry
    from edgekd.progress import Progress

SCHEMA: Final = "edgekd.paced/1"


@dataclass(frozen=True, kw_only=True)
class PacedModel:
    """One model with one number of threads, which spin or do not.

    Attributes:
        path: The model as the caller named it.
        sha256: Of the file that ran.
        threads: Intra-op threads.
        session: Options of the session: `arena`, `spinning` and `optimization`.
        inputs: `dtype` and `shape` of what it was fed, by input name.
        repetitions: Number of fresh processes.
        latency_ms: From when an input was due to its answer.
        run_ms: The inference alone.
        due: Inputs that came in.
        late: Answers that came after the next input was due.
        skipped: Inputs that came in while an earlier one was being answered.
        missed_deadlines: Both together, as a share of the inputs.
        cpu_share: CPU time of the process over wall time; 1 is a core.
    """

    path: str
    sha256: str
    threads: int
    session: Mapping[str, bool | str]
    inputs: Mapping[str, Any]
    repetitions: int
    latency_ms: Latency
    run_ms: Latency
    due: int
    late: int
    skipped: int
    missed_deadlines: float
    cpu_share: float


@dataclass(frozen=True, kw_only=True)
class PacedResult:
    """What `pace` returns. Each model has two rows: with threads that spin while they wait, and ones that sleep."""

    device: Device
    conditions: Conditions
    rate_per_s: float
    models: tuple[PacedModel, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the form `edgekd.paced/1`."""
        return {"schema": SCHEMA, **asdict(self)}


def pace(
    models: Sequence[str | Path],
    *,
    rate_per_s: float,
    device: str = "local",
    threads: Sequence[int] = (1,),
    duration_s: float | None = None,
    runs: int | None = None,
    repeats: int = 6,
    data: str | Path | None = None,
    dims: Mapping[str, int] | None = None,
    arena: bool = True,
    progress: Progress = SILENT,
) -> PacedResult:
    """Measure models at a pace: latency from when an input is due, missed deadlines and CPU time.

    The deadline of an input is when the next one is due. One that comes in while an earlier one is being answered is
    skipped. Repetitions, their order and what taints them are those of `bench`.

    Args:
        models: ONNX files.
        rate_per_s: Inputs a second.
        device: Name of a device profile; not an emulated one.
        threads: Numbers of intra-op threads to measure each model with.
        duration_s: Time of one model in seconds, over all its repetitions; None is 2 s. At least 44 answers are
            timed, the least that bound p90.
        runs: Number of answers of one model over all its repetitions, instead of a time.
        repeats: Fresh processes of each model; even.
        data: As of `bench`.
        dims: As of `bench`.
        arena: As of `bench`.
        progress: Hears of every block.

    Raises:
        UsageError: an argument is impossible, or the device is emulated: it has no time of its own.
        ModelError, DataError, DeviceError: as of `bench`.
    """
    from edgekd.devices import load_profile
    from edgekd.drivers import open_driver

    profile = load_profile(device)
    plan = make_plan(
        models,
        threads=threads,
        duration_s=duration_s,
        runs=runs,
        repeats=repeats,
        data=data,
        dims=dims or {},
        arena=arena,
        rate_per_s=rate_per_s,
    )
    driver = open_driver(profile)
    if driver.emulated:
        raise UsageError(f"{device} is emulated: it has no time of its own to keep a pace in; name a real device")
    with driver:
        repetitions, retaken = measure(driver, plan, rehearse(driver, plan), progress)
    spans = [repetition.span for repetition in repetitions]
    blocks = by_entry(repetitions)
    target = measured_target(profile, spans)
    return PacedResult(
        device=Device(name=device, target=target),
        conditions=judge(spans, retaken=retaken, onnxruntime=blocks[0][0]["onnxruntime"]),
        rate_per_s=rate_per_s,
        models=tuple(_summarise(entry, own) for entry, own in zip(plan.entries, blocks, strict=True)),
    )


def _summarise(entry: Entry, blocks: Sequence[Block]) -> PacedModel:
    answers = sum(len(block["latency_ms"]) for block in blocks)
    late, skipped = (sum(block[key] for block in blocks) for key in ("late", "skipped"))
    cpu_s, paced_s = (sum(block[key] for block in blocks) for key in ("paced_cpu_s", "paced_s"))
    return PacedModel(
        path=entry.path,
        sha256=entry.sha256,
        threads=entry.threads,
        session=asdict(entry.session),
        inputs=blocks[0]["inputs"],
        repetitions=len(blocks),
        latency_ms=Latency.of([block["latency_ms"] for block in blocks]),
        run_ms=Latency.of([block["run_ms"] for block in blocks]),
        due=answers + skipped,
        late=late,
        skipped=skipped,
        missed_deadlines=round((late + skipped) / (answers + skipped), 6),
        cpu_share=round(cpu_s / paced_s, 4),
    )
