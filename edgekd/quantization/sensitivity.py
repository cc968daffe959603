"""Mixed precision by measurement: which layers to keep in fp32 so that accuracy drops no further than allowed.

Two questions, two sets of samples. *Which layers hurt* is asked of calibration samples: a layer's sensitivity is the
noise in the model's output when that layer alone is quantized, relative to the fp32 output's power (the
analysis of Wu et al. 2020, arXiv:2004.09602, section 6.1, with noise instead of accuracy, which 32 samples could not
resolve). *How many of them must stay* is asked of the evaluation samples, by the very
drop that the gate judges. So the evaluation data chooses one number, not a set of layers fitted to it.

The search keeps the k most sensitive layers and halves the interval of k; then it gives layers back, the costliest
first, that turn out not to be needed. It scores at most `most_evaluations` files on the evaluation samples, after it
has run one file a layer on `SAMPLES` calibration samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekd.artifact import rounded
from edgekd.data.samples import ArraySamples
from edgekd.inference import predict
from edgekd.progress import SILENT, Progress
from edgekd.runtime import open_model
from edgekd.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgekd.data.samples import Samples
    from edgekd.progress import Task
    from edgekd.quantization.costs import Cost
    from edgekd.runtime import Model
    from edgekd.scoring import Evaluation

SAMPLES: Final = 32
GIVEN_BACK: Final = 8  # layers that the last step tries to return to INT8
LARGEST_SHARE: Final = 0.5  # of the layers: a file with more of them in fp32 is no INT8 file
_SHOWN: Final = 10
_BATCH: Final = 8


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What quantizing one layer costs and saves.

    Attributes:
        cost: The layer, and what it saves in INT8.
        noise: Power of the error in the model's first output when this layer alone is quantized, as a share of the
            power of the fp32 output.
    """

    cost: Cost
    noise: float

    def to_json(self) -> dict[str, Any]:
        """Return it as a flat mapping."""
        return {**self.cost.to_json(), "noise": rounded(self.noise)}


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A file with some layers in fp32, and what it scored.

    Attributes:
        fp32: Names of the layers that were to stay in fp32.
        content: The file.
        evaluation: Against the fp32 model.
    """

    fp32: frozenset[str]
    content: bytes
    evaluation: Evaluation


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the search for layers to keep in fp32 ended.

    Attributes:
        best: Of the files that meet the goal the one with the fewest layers in fp32. If none does, the one with the
            fewest that drops as little as a file with half of the layers in fp32.
        met: Whether it meets the goal.
        reason: Why layers stay in fp32, or why the goal was missed, in words.
        evaluations: How many files were scored on the evaluation samples, the all-INT8 one included.
        sensitivities: Of all layers, the most sensitive first.
    """

    best: Attempt
    met: bool
    reason: str
    evaluations: int
    sensitivities: tuple[Sensitivity, ...]

    def to_json(self) -> dict[str, Any]:
        """Return how much was tried, and the most sensitive layers."""
        return {
            "met": self.met,
            "evaluations": self.evaluations,
            "sensitivities": [sensitivity.to_json() for sensitivity in self.sensitivities[:_SHOWN]],
        }


def measure_sensitivities(
    costs: Sequence[Cost],
    quantize_alone: Callable[[str], bytes],
    original: Model,
    samples: Samples,
    *,
    limit: int | None = None,
    progress: Progress = SILENT,
) -> tuple[Sensitivity, ...]:
    """Return the sensitivity of every layer, the most sensitive first, equals in the order given.

    Args:
        costs: The layers, in the order of the graph.
        quantize_alone: Gives the file in which only the layer of that name is quantized.
        original: The fp32 model.
        samples: Calibration samples; up to `SAMPLES` of them, evenly spaced, are used.
        limit: Of the first so many samples only.
        progress: Listener.

    Raises:
        ModelError: a file cannot be run, or gives NaN or infinity.
    """
    count = min(len(samples), limit or len(samples))
    places = np.unique(np.linspace(0, count - 1, min(SAMPLES, count)).astype(np.int64))
    some = ArraySamples(samples.batch(places), name=samples.name)
    reference = predict(original, some, batch_size=_BATCH).astype(np.float64)
    power = max(float(np.square(reference).sum()), np.finfo(np.float64).tiny)
    found = []
    with progress.task("measure layer sensitivities", len(costs)) as task:
        for cost in costs:
            model = open_model(quantize_alone(cost.layer), name=f"{original.name} ({cost.layer})")
            outputs = predict(model, some, batch_size=_BATCH)
            noise = float(np.square(outputs - reference).sum()) / power
            found.append(Sensitivity(cost=cost, noise=noise))
            task.advance(1, cost.layer)
    return tuple(sorted(found, key=lambda sensitivity: -sensitivity.noise))


def most_evaluations(layers: int) -> int:
    """Return how many files `keep_fewest` makes and scores at most, for a model of so many layers."""
    return _largest_count(layers).bit_length() + 1 + GIVEN_BACK


def keep_fewest(
    full: Attempt,
    sensitivities: Sequence[Sensitivity],
    make: Callable[[frozenset[str]], Attempt],
    max_drop: float,
    *,
    progress: Progress = SILENT,
) -> Search:
    """Return the file with the fewest layers in fp32 whose drop is at most `max_drop`, or the best of those tried.

    Args:
        full: The file with all layers in INT8, which misses the goal.
        sensitivities: Of all layers, the most sensitive first.
        make: Gives the file with the layers of these names in fp32, and scores it.
        max_drop: The goal, as `Evaluation.drop` has it.
        progress: Listener.
    """
    ranked = [sensitivity.cost for sensitivity in sensitivities]
    with progress.task("search layers to keep in fp32", most_evaluations(len(ranked))) as task:
        trials = _Trials(full, make, max_drop, task)
        largest = _largest_count(len(ranked))
        if largest and trials.within_reach(ranked[:largest]):
            kept = _halve(ranked[:largest], trials)
            _give_back(kept, trials)
    return Search(
        best=trials.best,
        met=trials.met,
        reason=_reason(trials, ranked),
        evaluations=trials.count,
        sensitivities=tuple(sensitivities),
    )


class _Trials:
    """Files that were made and scored, of which the best is held.

    They are measured by `goal`: `max_drop`, or the least drop within reach.
    """

    def __init__(self, full: Attempt, make: Callable[[frozenset[str]], Attempt], max_drop: float, task: Task) -> None:
        self.full, self.best, self.count, self.max_drop, self.goal = full, full, 1, max_drop, max_drop
        self._make, self._task = make, task

    @property
    def met(self) -> bool:
        """Whether the best of them meets the goal."""
        return self.best.evaluation.drop <= self.max_drop

    def within_reach(self, layers: Sequence[Cost]) -> bool:
        """Try the most layers that may stay in fp32; lower the goal to what they reach, and say if that is a gain."""
        attempt = self._try(layers)
        self.goal = max(attempt.evaluation.drop, self.max_drop)
        return self.goal < self.full.evaluation.drop

    def meets(self, layers: Sequence[Cost]) -> bool:
        """Return whether the file with these layers in fp32 meets the goal."""
        return self._try(layers).evaluation.drop <= self.goal

    def _try(self, layers: Sequence[Cost]) -> Attempt:
        attempt = self._make(frozenset(cost.layer for cost in layers))
        self.count += 1
        self.best = min(self.best, attempt, key=self._badness)
        self._task.advance(1, f"{len(layers)} in fp32: drop {attempt.evaluation.drop:g}")
        return attempt

    def _badness(self, attempt: Attempt) -> tuple[bool, float, int]:
        drop = attempt.evaluation.drop
        return drop > self.max_drop, max(drop, self.goal), len(attempt.fp32)


def _largest_count(layers: int) -> int:
    """Return how many of so many layers may stay in fp32: half of them, rounded up, and never all."""
    return min(math.ceil(LARGEST_SHARE * layers), max(layers - 1, 0))


def _halve(ranked: Sequence[Cost], trials: _Trials) -> Sequence[Cost]:
    """Return the shortest beginning of `ranked` found to meet the goal; all of it does, none of it does not."""
    too_few, enough = 0, len(ranked)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if trials.meets(ranked[:middle]):
            enough = middle
        else:
            too_few = middle
    return ranked[:enough]


def _give_back(kept: Sequence[Cost], trials: _Trials) -> None:
    """Try to return layers to INT8, the costliest first. The last is needed: without it the goal was missed."""
    costliest = sorted(kept[:-1], key=lambda cost: -cost.multiply_accumulates)
    for cost in costliest[:GIVEN_BACK]:
        fewer = [other for other in kept if other is not cost]
        if trials.meets(fewer):
            kept = fewer


def _reason(trials: _Trials, ranked: Sequence[Cost]) -> str:
    """Say why layers stay in fp32, or why the goal was missed."""
    kept = [cost for cost in ranked if cost.layer in trials.best.fp32]
    work = sum(cost.multiply_accumulates for cost in ranked)
    share = sum(cost.multiply_accumulates for cost in kept) / work if work else 0.0
    stay = (
        f"{len(kept)} of {counted(len(ranked), 'layer')} {'stays' if len(kept) == 1 else 'stay'} in fp32 "
        f"({share:.1%} of the multiply-accumulates)"
    )
    first, best = trials.full.evaluation.drop, trials.best.evaluation.drop
    if trials.met:
        return f"{stay}: with every layer in INT8 the drop was {first:g}, at most {trials.max_drop:g} is allowed"
    if trials.count == 1:
        return (
            f"the drop is {first:g}, at most {trials.max_drop:g} is allowed, and with its only layer in fp32 the "
            "model would not be quantized at all"
        )
    return (
        f"no file met a drop of {trials.max_drop:g}: in the best of {trials.count} that were tried, {stay} and the "
        f"drop is {best:g}; with every layer in INT8 it was {first:g}. No more than half of the layers are kept in "
        f"fp32. Calibration samples more like the evaluation samples may help"
    )
