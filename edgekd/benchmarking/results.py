"""What a benchmark found, and its JSON form `edgekd.bench/1`.

The fields of these classes are the keys of the JSON. A figure that could not be had is None: NaN never appears.
"""

from __future__ import annotations

import json
from collections.abc import Mapping  # noqa: TC003 - pydantic reads the annotations
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.artifact import read_json
from edgekd.benchmarking.conditions import Conditions  # noqa: TC001
from edgekd.benchmarking.consumption import Energy  # noqa: TC001
from edgekd.benchmarking.correlation import correlated_uppers, lag_one_autocorrelation
from edgekd.benchmarking.profiling import Profile  # noqa: TC001
from edgekd.benchmarking.statistics import CONFIDENCE, PairedRatio, percentiles
from edgekd.benchmarking.tuned import Tuning  # noqa: TC001
from edgekd.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA = "edgekd.bench/1"
CORRELATED = 0.1  # above this autocorrelation, samples are not taken as independent
_CURVE = np.linspace(0, 1, 51)
_FRACTIONS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where the models ran: the name of the profile, and the instruction set."""

    name: str
    target: str


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Percentiles of the latency of one inference, in ms, over all repetitions.

    Attributes:
        p50: The median.
        p90, p95, p99: None where the sample is too small to bound them.
        p50_upper, p90_upper, p95_upper, p99_upper: With `confidence` the true percentile is not above this; None
            where the sample is too small.
        samples: Number of timed runs.
        confidence: That of the bounds.
        autocorrelation: Of each run with the one before, in one process; above 0.1 the bounds allow for it
            (`correlation.py`), else they are order statistics of independent samples.
        distribution_ms: What 0, 2, 4, ... 100 % of the timed runs took at most.
        runs_needed: For each percentile without a bound, the least number of timed runs that gives one.
    """

    p50: float
    p90: float | None
    p95: float | None
    p99: float | None
    p50_upper: float | None
    p90_upper: float | None
    p95_upper: float | None
    p99_upper: float | None
    samples: int
    confidence: float
    runs_needed: Mapping[str, int]
    autocorrelation: float = 0.0
    distribution_ms: tuple[float, ...] = ()

    @classmethod
    def of(cls, processes_ms: Sequence[Sequence[float]]) -> Latency:
        """Summarise the timed runs of every process, in ms, in the order of time."""
        processes = [np.asarray(samples, dtype=np.float64) for samples in processes_ms]
        fractions = list(_FRACTIONS.values())
        found = percentiles(np.concatenate(processes), fractions)
        correlation = lag_one_autocorrelation(processes)
        if correlation > CORRELATED:
            bounds = correlated_uppers(processes, fractions, CONFIDENCE)
            found = [
                replace(percentile, upper=upper, runs_needed=needed)
                for percentile, (upper, needed) in zip(found, bounds, strict=True)
            ]
        named = dict(zip(_FRACTIONS, found, strict=True))
        numbers: dict[str, Any] = {
            name: _to_ns(percentile.estimate if percentile.upper is not None or name == "p50" else None)
            for name, percentile in named.items()
        }
        numbers |= {f"{name}_upper": _to_ns(percentile.upper) for name, percentile in named.items()}
        return cls(
            **numbers,
            samples=sum(samples.size for samples in processes),
            confidence=CONFIDENCE,
            runs_needed={name: named[name].runs_needed for name in named if named[name].upper is None},
            autocorrelation=round(correlation, 3),
            distribution_ms=tuple(np.quantile(np.concatenate(processes), _CURVE).round(6).tolist()),
        )


def _to_ns(value_ms: float | None) -> float | None:
    return None if value_ms is None else round(value_ms, 6)


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One model with one number of threads.

    Attributes:
        path: The model as the caller named it.
        sha256: Of the file that ran.
        threads: Intra-op threads.
        inputs: `dtype` and `shape` of what it was fed, by input name.
        repetitions: Number of fresh processes.
        load_ms: Time to create the session, in ms; median over the repetitions.
        first_run_ms: Time of the first inference, in ms; median over the repetitions.
        latency_ms: Timed runs of all repetitions.
        block_p50_ms: Median of each repetition, in the order of time.
        warmed_up: Whether every repetition was steady before it was timed.
        memory_bytes: Resident memory by phase, in bytes, median over the repetitions: `interpreter`, `import`,
            `session_peak`, `session`, `first_run`, `steady`, `peak`; None where the device does not tell. See
            `edgekd/benchmarking/runner.py` for what they mean.
        ratio_to_first: Its block medians over those of the first model with as many threads; None for that one.
        samples_per_s: Throughput: the extent of the first input's first axis, over the mean latency.
        session: Options of the session: `arena`, `spinning` and `optimization`; None in an earlier version's result.
        resident_bytes: What is resident after the timed runs, in bytes, median over the repetitions: `anonymous` (the
            process's own), `file` (libraries and mapped files), `pss` (shared pages divided among those that share
            them); None where the device does not tell.
        energy: What an inference costs; None where there is no sensor (`conditions.power_sensor` says why).
        profile: Where the time goes; None unless it was asked for.
        instructions: Of one inference, on an emulated device with one thread, where QEMU counts them.
    """

    path: str
    sha256: str
    threads: int
    inputs: Mapping[str, Any]
    repetitions: int
    load_ms: float | None
    first_run_ms: float | None
    latency_ms: Latency | None
    block_p50_ms: tuple[float, ...] | None
    warmed_up: bool | None
    memory_bytes: Mapping[str, int | None] | None
    ratio_to_first: PairedRatio | None
    samples_per_s: float | None = None
    instructions: int | None = None
    session: Mapping[str, bool | str] | None = None
    resident_bytes: Mapping[str, int | None] | None = None
    energy: Energy | None = None
    profile: Profile | None = None


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """What `bench` returns; `tuning` is what a search for a session's settings found, or None."""

    device: Device
    conditions: Conditions
    models: tuple[ModelResult, ...]
    tuning: Tuning | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form `edgekd.bench/1`."""
        return {"schema": SCHEMA, **asdict(self)}


def read_result(path: str | Path) -> BenchResult:
    """Read a file in the form `edgekd.bench/1`; keys it has besides are ignored.

    Raises:
        DataError: it cannot be read, or is not in that form; the message names the key.
    """
    from pydantic import TypeAdapter, ValidationError

    found = read_json(Path(path), SCHEMA, "benchmark result")
    try:
        return TypeAdapter(BenchResult).validate_json(json.dumps(found), strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise DataError(f"{path}: {key}: {fault['msg']}") from error
