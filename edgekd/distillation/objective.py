"""What a network learns from: labels alone, or a teacher's answers by any number of terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from edgekd.distillation.losses.labels import label_loss
from edgekd.distillation.losses.response import confidence_weights
from edgekd.distillation.terms import Lesson, Term
from edgekd.errors import ModelError
from edgekd.terms import ConfidenceSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from edgekd.distillation.taps import Taps
    from edgekd.distillation.teacher import Ask


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a training, before the loss is known.

    Attributes:
        inputs: float32 (N, ...), on the device.
        logits: The network's, (N, classes).
        labels: int64 (N,), on the device; (N, classes) of 0 and 1 where classes occur together.
        positions: int64 (N,): which samples these are.
        epoch: From 0.
        share: Of the training that is done, in [0, 1).
        peers: Logits of the networks that train along, shape (peers, N, classes); None: it trains alone.
    """

    inputs: Tensor
    logits: Tensor
    labels: Tensor
    positions: Tensor
    epoch: int
    share: float
    peers: Tensor | None = None


class Objective(Protocol):
    """Gives the loss of a step."""

    @property
    def learnt(self) -> nn.Module:
        """What it learns itself: trained with the network, kept in checkpoints, and no part of the network."""

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """Return the loss's parts by name, weighed; the loss is their sum."""

    def weights(self, share: float) -> dict[str, float]:
        """Return what parts are multiplied by when that share of the training is done; 1 where none is named."""


class LabelObjective:
    """Cross-entropy with the labels."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.learnt = nn.ModuleList()
        self._label_smoothing = label_smoothing

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """Return the one part, `ce`."""
        return {"ce": label_loss(step.logits, step.labels, self._label_smoothing)}

    def weights(self, share: float) -> dict[str, float]:  # noqa: ARG002
        """Return that none is multiplied."""
        return {}


class TeacherObjective:
    """The terms of a distillation. The teacher is asked in steps where a term needs it."""

    def __init__(
        self,
        terms: Sequence[Term],
        ask: Ask,
        taps: Taps,
        confidence: ConfidenceSettings | None = None,
        labelled: int | None = None,
        places: Sequence[str] = (),
    ) -> None:
        """Bring together who takes part.

        Args:
            terms: The loss.
            ask: Gives the teacher's answers, with a feature for each of the student's taps but the last.
            taps: The student's; the last of them are those of `places`.
            confidence: Which answers count; all by default.
            labelled: So many samples have labels, the others, which follow them, have none; None: all have.
            places: Where the student alone is looked at.
        """
        self.learnt = nn.ModuleList(terms)
        self._terms = list(zip(_names(terms), terms, strict=True))
        self._ask = ask
        self._taps = taps
        self._confidence = confidence or ConfidenceSettings()
        self._labelled = labelled
        self._places = tuple(places)

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """Return a part for each term that counts now."""
        features = self._taps.take()
        active = [(name, term) for name, term in self._terms if term.settings.counts(step.share)]
        compared = features[: len(features) - len(self._places)]
        if not any(term.settings.asks_teacher for _, term in active):
            answers, pairs = step.logits.detach(), []
        else:
            answers, found = self._ask(step.inputs, step.positions, step.epoch)
            _check(answers, step.logits, found)
            pairs = list(zip(compared, found, strict=True))
        labels, labelled = step.labels, None
        if self._labelled is not None:
            labelled = (step.positions < self._labelled).to(labels.device)
            if labels.ndim == 1:
                labels = torch.where(labelled, labels, answers.argmax(dim=1))
        lesson = Lesson(
            logits=step.logits,
            labels=labels,
            answers=answers,
            weights=self._weights(answers, labels),
            pairs=pairs,
            share=step.share,
            labelled=labelled,
            places=dict(zip(self._places, features[len(compared) :], strict=True)),
            peers=step.peers,
        )
        return {name: term.settings.weight_at(step.share) * term(lesson) for name, term in active}

    def weights(self, share: float) -> dict[str, float]:
        """Return the weight of every term when that share of the training is done."""
        return {name: term.settings.weight_at(share) for name, term in self._terms}

    def _weights(self, answers: Tensor, labels: Tensor) -> Tensor | None:
        chosen = self._confidence
        if chosen.takes_all:
            return None
        return confidence_weights(
            answers, labels if chosen.only_correct else None, threshold=chosen.threshold, soft=chosen.soft
        )


def _names(terms: Sequence[Term]) -> list[str]:
    """Return the kinds; where one occurs several times, with its number."""
    kinds = [term.settings.kind for term in terms]
    return [
        kind if kinds.count(kind) == 1 else f"{kind} {kinds[: number + 1].count(kind)}"
        for number, kind in enumerate(kinds)
    ]


def _check(answers: Tensor, logits: Tensor, features: Sequence[Tensor]) -> None:
    if answers.shape != logits.shape:
        raise ModelError(
            f"the teacher's logits have shape {tuple(answers.shape)}, the student's {tuple(logits.shape)}; "
            "both must know the same classes"
        )
    for what, values in [("logits", answers), *(("tapped features", feature) for feature in features)]:
        if not torch.isfinite(values).all():
            raise ModelError(f"the teacher's {what} hold NaN or infinity for real inputs; it cannot teach")
