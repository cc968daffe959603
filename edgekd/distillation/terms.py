"""The registry of loss terms: what each kind of `edgekd.terms` computes. The training loop knows none of them.

A new method is a settings class there, a pure function in `losses`, and a few lines here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from edgekd.distillation.adapters import Adapter, channels, pooled, same_places
from edgekd.distillation.losses import feature, relation, response
from edgekd.distillation.losses.labels import label_loss
from edgekd.errors import UsageError
from edgekd.terms import (
    AnyTerm,
    AttentionTerm,
    CcTerm,
    CeTerm,
    DeepSupervisionTerm,
    DistTerm,
    DkdTerm,
    HintTerm,
    JsTerm,
    KdTerm,
    LskdTerm,
    MutualTerm,
    PairTerm,
    PktTerm,
    ReverseKlTerm,
    RkdAngleTerm,
    RkdDistanceTerm,
    SigmoidKdTerm,
    SpTerm,
    VidTerm,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a term may look at in one step.

    Attributes:
        logits: The student's, shape (N, classes).
        labels: Shape (N,), int64; (N, classes) where classes occur together.
        answers: The teacher's logits, shape (N, classes).
        weights: How much each answer counts, shape (N,); None: all the same.
        pairs: Features of student and teacher, one pair for each pair of taps.
        share: Of the training that is done, in [0, 1).
        labelled: Which labels are there, bool of shape (N,); those of the others are the teacher's. None: all.
        places: Further features of the student by path.
        peers: Logits of the students that train along, shape (peers, N, classes); None: it trains alone.
    """

    logits: Tensor
    labels: Tensor
    answers: Tensor
    weights: Tensor | None
    pairs: Sequence[tuple[Tensor, Tensor]]
    share: float
    labelled: Tensor | None = None
    places: Mapping[str, Tensor] = field(default_factory=dict)
    peers: Tensor | None = None


class Term(nn.Module):
    """One term; what it learns itself trains with the student and is never saved with it."""

    def __init__(self, settings: AnyTerm) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, lesson: Lesson) -> Tensor:
        """Return the loss, a number, not yet weighed."""
        raise NotImplementedError


class _Response(Term):
    def __init__(self, settings: AnyTerm, loss: Callable[[Any, Lesson], Tensor]) -> None:
        super().__init__(settings)
        self._loss = loss

    def forward(self, lesson: Lesson) -> Tensor:
        """Return the loss of logits."""
        return self._loss(self.settings, lesson)


class _Pairs(Term):
    """The mean of a loss over pairs of features."""

    def __init__(self, settings: PairTerm, losses: Sequence[Callable[[Tensor, Tensor], Tensor]]) -> None:
        super().__init__(settings)  # type: ignore[arg-type]
        self._numbers = settings.pairs or range(len(losses))
        self._losses = losses
        self._learnt = nn.ModuleList(loss for loss in losses if isinstance(loss, nn.Module))

    def forward(self, lesson: Lesson) -> Tensor:
        """Return the mean loss over the term's pairs."""
        found = [loss(*lesson.pairs[i]) for i, loss in zip(self._numbers, self._losses, strict=True)]
        return torch.stack(found).mean()


class _DeepSupervision(Term):
    """The mean loss of the heads on a network's inner places."""

    def __init__(self, settings: DeepSupervisionTerm, places: Mapping[str, Shape], classes: int) -> None:
        super().__init__(settings)
        widths = [channels(places[place]) for place in settings.places]
        self._heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)) for width in widths
        )
        self._places = settings.places

    def forward(self, lesson: Lesson) -> Tensor:
        """Return the loss of logits made of features averaged over places or tokens."""
        settings = self.settings
        assert isinstance(settings, DeepSupervisionTerm)
        losses = []
        for place, head in zip(self._places, self._heads, strict=True):
            logits = head(pooled(lesson.places[place]))
            inner = response.kd_loss(logits, lesson.logits, temperature=settings.temperature_at(lesson.share))
            given = label_loss(logits, lesson.labels, labelled=lesson.labelled)
            losses.append(settings.last_stage * inner + (1 - settings.last_stage) * given)
        return torch.stack(losses).mean()


class _Hint(nn.Module):
    def __init__(self, settings: HintTerm, student: Shape, teacher: Shape) -> None:  # noqa: ARG002
        super().__init__()
        self.adapter = Adapter(student, teacher)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return feature.hint_loss(*self.adapter(student, teacher))


class _Vid(nn.Module):
    def __init__(self, settings: VidTerm, student: Shape, teacher: Shape) -> None:  # noqa: ARG002
        super().__init__()
        self.adapter = Adapter(student, teacher)
        # variance 5 at first, as in the authors' code: far-off features must not dominate
        self.raw_variance = nn.Parameter(torch.full((channels(teacher),), 5.0).expm1().log())

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        mean, features = self.adapter(student, teacher)
        return feature.vid_loss(mean, features, self.raw_variance)


def _attention(settings: AttentionTerm, student: Shape, teacher: Shape) -> Callable[[Tensor, Tensor], Tensor]:
    if min(len(student), len(teacher)) < 3:
        raise UsageError(
            "distill.terms: the kind 'at' needs maps (N, channels, height, width) or tokens, not vectors"
        )
    return lambda ours, theirs: feature.attention_loss(*same_places(ours, theirs), settings.power)


def _relation(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Callable[[Tensor, Tensor], Tensor]]:
    return lambda settings, student, teacher: loss  # noqa: ARG005


def _soft(loss: Callable[..., Tensor], *names: str) -> Callable[[Any, Lesson], Tensor]:
    """Return a term of softened logits; `names` are those settings that the loss takes besides the temperature."""

    def term(settings: Any, lesson: Lesson) -> Tensor:
        further = {name: getattr(settings, name) for name in names}
        temperature = settings.temperature_at(lesson.share)
        return loss(lesson.logits, lesson.answers, temperature=temperature, weights=lesson.weights, **further)

    return term


def _dkd(settings: DkdTerm, lesson: Lesson) -> Tensor:
    return response.dkd_loss(
        lesson.logits,
        lesson.answers,
        lesson.labels,
        temperature=settings.temperature_at(lesson.share),
        alpha=settings.alpha,
        beta=settings.beta,
        weights=lesson.weights,
    )


def _ce(settings: CeTerm, lesson: Lesson) -> Tensor:
    """Return the mean over the samples that have labels."""
    return label_loss(lesson.logits, lesson.labels, settings.label_smoothing, lesson.labelled)


def _mutual(settings: MutualTerm, lesson: Lesson) -> Tensor:
    """Return the mean divergence from each of the peers."""
    assert lesson.peers is not None
    temperature = settings.temperature_at(lesson.share)
    return torch.stack([response.kd_loss(lesson.logits, peer, temperature) for peer in lesson.peers]).mean()


RESPONSES: dict[type, Callable[[Any, Lesson], Tensor]] = {
    CeTerm: _ce,
    MutualTerm: _mutual,
    KdTerm: _soft(response.kd_loss),
    DkdTerm: _dkd,
    DistTerm: _soft(response.dist_loss, "beta", "gamma"),
    LskdTerm: _soft(response.standardised_kd_loss),
    ReverseKlTerm: _soft(response.reverse_kl_loss),
    JsTerm: _soft(response.jensen_shannon_loss, "beta"),
    SigmoidKdTerm: _soft(response.sigmoid_kd_loss),
}
# (settings, student's shape, teacher's shape) -> loss of a pair of features
PAIRS: dict[type, Callable[..., Callable[[Tensor, Tensor], Tensor]]] = {
    HintTerm: _Hint,
    VidTerm: _Vid,
    AttentionTerm: _attention,
    RkdDistanceTerm: _relation(relation.rkd_distance_loss),
    RkdAngleTerm: _relation(relation.rkd_angle_loss),
    SpTerm: _relation(relation.similarity_loss),
    PktTerm: _relation(relation.pkt_loss),
    CcTerm: lambda settings, student, teacher: (  # noqa: ARG005
        lambda ours, theirs: relation.correlation_loss(ours, theirs, settings.gamma, settings.order)
    ),
}


def build_term(
    settings: AnyTerm,
    shapes: Sequence[tuple[Shape, Shape]],
    places: Mapping[str, Shape] | None = None,
    classes: int = 0,
) -> Term:
    """Return a term.

    Args:
        settings: Of any kind.
        shapes: Those of student's and teacher's features for each pair of taps, found by a dry run.
        places: Those of the student's further features by path.
        classes: How many logits there are, for heads on these.

    Raises:
        UsageError: it needs taps and there are none, or one that is not there.
        ModelError: the features of a pair cannot be compared.
    """
    if type(settings) in RESPONSES:
        return _Response(settings, RESPONSES[type(settings)])
    if isinstance(settings, DeepSupervisionTerm):
        return _DeepSupervision(settings, places or {}, classes)
    assert isinstance(settings, PairTerm)
    numbers = settings.pairs or range(len(shapes))
    return _Pairs(settings, [PAIRS[type(settings)](settings, *shapes[number]) for number in numbers])
