"""The verb `compare`: did a later benchmark become slower or larger than an earlier one, beyond the noise?

The two were measured at different times, so their blocks are no pairs. The ratio is the Hodges-Lehmann estimate: the
median of the ratios of every block of one to every block of the other; its interval is that of the Mann-Whitney test,
and supposes nothing of the distribution (M. Hollander, D. A. Wolfe and E. Chicken, Nonparametric Statistical Methods,
3rd ed. (2014), sections 4.2 and 4.3). What drifts between two days is in neither: a floor of noise stands beside it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekd.benchmarking.conditions import EMULATED
from edgekd.benchmarking.results import BenchResult, ModelResult, read_result
from edgekd.benchmarking.statistics import Verdict, judge_ratio, noise_floor
from edgekd.errors import GateError, UsageError
from edgekd.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SCHEMA: Final = "edgekd.comparison/1"
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, kw_only=True)
class LatencyChange:
    """How the latency of a model changed.

    Attributes:
        base_p50, new_p50: Medians, in ms.
        ratio: New over base, from the medians of the blocks.
        lower, upper: With `confidence` the true ratio lies between them.
        confidence: That of the interval; below 0.95 where there are few blocks.
        noise_floor: The largest change of either against itself between neighbouring blocks, as a share.
        verdict: `"none"` within the interval or the noise, else `"faster"` or `"slower"`.
    """

    base_p50: float
    new_p50: float
    ratio: float
    lower: float
    upper: float
    confidence: float
    noise_floor: float
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class MemoryChange:
    """The highest resident memory of a model in bytes, and new over base."""

    base: int
    new: int
    ratio: float


@dataclass(frozen=True, kw_only=True)
class ModelChange:
    """One model with one number of threads, in both results.

    Attributes:
        model: Its path in the new result.
        threads: Intra-op threads.
        same_file: Whether both ran the same file.
        latency: None where either was not measured (emulated devices).
        memory: None where either was not measured.
        regressions: Of "latency" and "memory" those that are beyond the noise and beyond what is allowed.
    """

    model: str
    threads: int
    same_file: bool
    latency: LatencyChange | None
    memory: MemoryChange | None
    regressions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare` returns.

    Attributes:
        base, new: The files.
        max_regression: The largest growth allowed, as a share.
        tainted: Which of the two were measured while other work was running.
        models: In the order of the new result.
    """

    base: str
    new: str
    max_regression: float
    tainted: tuple[str, ...]
    models: tuple[ModelChange, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the form `edgekd.comparison/1`."""
        return {"schema": SCHEMA, **asdict(self)}

    def require_no_regression(self) -> None:
        """Hold the comparison against its gate.

        Raises:
            GateError: a model became slower or larger than `max_regression` allows, beyond the noise.
        """
        worse = [
            f"{change.model} ({' and '.join(change.regressions)})" for change in self.models if change.regressions
        ]
        if worse:
            raise GateError(
                f"gate not met: {counted(len(worse), 'model')} beyond the noise and more than "
                f"{self.max_regression:.1%} worse than {self.base}: {', '.join(worse)}"
            )


def compare(
    base: str | Path,
    new: str | Path,
    *,
    max_regression: float = 0.05,
    across_devices: bool = False,
    by_order: bool = False,
) -> Comparison:
    """Compare two results of `bench`.

    Args:
        base: The earlier result, a file in the form `edgekd.bench/1`.
        new: The later one.
        max_regression: The largest growth of latency or memory allowed, as a share: 0.05 is 5 %.
        across_devices: Whether results of different devices may be compared.
        by_order: Whether models are paired by their order, not by file name and threads.

    Raises:
        DataError: a file cannot be read, or is not in that form.
        UsageError: the devices or the models differ, and nothing says that they may; or a device was emulated.
    """
    if not 0 <= max_regression < float("inf"):
        raise UsageError(f"max_regression: expected a share from 0 on, such as 0.05, got {max_regression}")
    before, after = read_result(base), read_result(new)
    for path, result in ((base, before), (new, after)):
        if result.conditions.verdict == EMULATED:
            raise UsageError(f"{path}: {result.device.name} is emulated, so nothing was measured to compare")
    if not across_devices:
        _require_one_device(before, after, base, new)
    pairs = _pair_by_order(before, after) if by_order else _pair_by_name(before, after, base, new)
    files = {str(base): before, str(new): after}
    return Comparison(
        base=str(base),
        new=str(new),
        max_regression=max_regression,
        tainted=tuple(path for path, result in files.items() if result.conditions.verdict != "valid"),
        models=tuple(_change(old, fresh, max_regression) for old, fresh in pairs),
    )


def _require_one_device(before: BenchResult, after: BenchResult, base: str | Path, new: str | Path) -> None:
    facts = {
        "device": (before.device.name, after.device.name),
        "instruction set": (before.device.target, after.device.target),
        "CPU": (before.conditions.cpu_model, after.conditions.cpu_model),
    }
    for what, (old, fresh) in facts.items():
        if old != fresh:
            raise UsageError(
                f"{base} and {new} were measured on different devices ({what}: {old!r} and {fresh!r}); "
                "--across-devices compares them all the same"
            )


_Pairs = list[tuple[ModelResult, ModelResult]]


def _pair_by_name(before: BenchResult, after: BenchResult, base: str | Path, new: str | Path) -> _Pairs:
    old, fresh = _by_name(before, base), _by_name(after, new)
    alone = [f"{name} ({counted(threads, 'thread')})" for name, threads in sorted(old.keys() ^ fresh.keys())]
    if alone:
        raise UsageError(
            f"{base} and {new} hold different models: only one of them has {', '.join(alone)}; "
            "--by-order pairs them by their order"
        )
    return [(old[key], model) for key, model in fresh.items()]


def _by_name(result: BenchResult, path: str | Path) -> dict[tuple[str, int], ModelResult]:
    found = {(Path(model.path).name, model.threads): model for model in result.models}
    if len(found) < len(result.models):
        raise UsageError(f"{path} holds several models of one file name; --by-order pairs them by their order")
    return found


def _pair_by_order(before: BenchResult, after: BenchResult) -> _Pairs:
    if len(before.models) != len(after.models):
        raise UsageError(f"cannot pair {len(before.models)} with {len(after.models)} models by their order")
    return list(zip(before.models, after.models, strict=True))


def _change(base: ModelResult, new: ModelResult, max_regression: float) -> ModelChange:
    latency, memory = _latency_change(base, new), _memory_change(base, new)
    regressions = []
    if latency is not None and latency.verdict == "slower" and latency.ratio > 1 + max_regression:
        regressions.append("latency")
    if memory is not None and memory.ratio > 1 + max_regression:
        regressions.append("memory")
    return ModelChange(
        model=new.path,
        threads=new.threads,
        same_file=base.sha256 == new.sha256,
        latency=latency,
        memory=memory,
        regressions=tuple(regressions),
    )


def _latency_change(base: ModelResult, new: ModelResult) -> LatencyChange | None:
    if base.latency_ms is None or new.latency_ms is None or not base.block_p50_ms or not new.block_p50_ms:
        return None
    ratio, lower, upper, confidence = independent_ratio(new.block_p50_ms, base.block_p50_ms)
    floor = max(noise_floor(base.block_p50_ms), noise_floor(new.block_p50_ms))
    return LatencyChange(
        base_p50=base.latency_ms.p50,
        new_p50=new.latency_ms.p50,
        ratio=ratio,
        lower=lower,
        upper=upper,
        confidence=confidence,
        noise_floor=floor,
        verdict=judge_ratio(ratio, lower, upper, floor),
    )


def _memory_change(base: ModelResult, new: ModelResult) -> MemoryChange | None:
    old, fresh = ((model.memory_bytes or {}).get("peak") for model in (base, new))
    return None if not old or not fresh else MemoryChange(base=old, new=fresh, ratio=fresh / old)


def independent_ratio(values: Sequence[float], base: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the ratio of `values` to `base`, not paired, and its interval: ratio, lower, upper, confidence.

    All are above zero. With few values the interval is the widest there is, and its confidence says what it is worth.
    """
    ratios = np.sort(np.divide.outer(np.asarray(values, np.float64), np.asarray(base, np.float64)).ravel())
    at_most = np.cumsum(_mann_whitney(len(values), len(base)))  # P(U <= u)
    rank = max(1, int(np.searchsorted(2 * at_most, 1 - CONFIDENCE, side="right")))
    confidence = max(0.0, 1 - 2 * float(at_most[rank - 1]))
    return float(np.median(ratios)), float(ratios[rank - 1]), float(ratios[-rank]), round(confidence, 9)


def _mann_whitney(count: int, other: int) -> NDArray[np.float64]:
    """Return P(U = u) for u from 0 to count * other, under the hypothesis of no difference.

    U's generating function is the Gaussian binomial coefficient: the product of (1 - q^(other + i)) / (1 - q^i).
    """
    weights = np.zeros(count * other + 1)
    weights[0] = 1.0
    for index in range(1, count + 1):
        for place in range(len(weights) - 1, other + index - 1, -1):
            weights[place] -= weights[place - other - index]
        for place in range(index, len(weights)):
            weights[place] += weights[place - index]
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities
