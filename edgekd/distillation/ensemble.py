"""A teacher made of teachers: their logits averaged, with fixed weights or with weights for every sample."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, get_args

import torch
from torch.nn import functional as F

from edgekd.artifact import canonical_json
from edgekd.distillation.losses.numerics import EPSILON, wide
from edgekd.distillation.teacher import Answers
from edgekd.errors import ModelError, UsageError
from edgekd.terms import Weighting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from edgekd.distillation.teacher import Ask, Teacher


class Teachers:
    """Several teachers that answer as one: the weighed mean of their logits.

    At every temperature that is the normalised geometric mean of their distributions, one of the two means that
    Hinton et al. 2015 (arXiv:1503.02531) name, and for labels that occur together that of their odds. Features are
    those of the first teacher.
    """

    def __init__(
        self,
        members: Sequence[Teacher],
        weights: Sequence[float] | None = None,
        *,
        weighting: Weighting = "fixed",
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        """Take teachers.

        Args:
            members: Two or more, of the same classes.
            weights: How much each counts: 0 or more, not all 0; all the same by default.
            weighting: What else decides how much: `"fixed"` nothing; `"entropy"` and `"confidence"` multiply the
                weights by those of `entropy_weights` and `confidence_weights`, sample by sample.
            labels: Of the training samples by position, shape (samples,), for `"confidence"`.

        Raises:
            UsageError: fewer than two teachers, impossible weights, an unknown weighting, or no labels where they are
                needed.
        """
        self._members = tuple(members)
        self._weights = tuple(float(weight) for weight in weights or [1.0] * len(self._members))
        if len(self._members) < 2 or len(self._weights) != len(self._members):
            raise UsageError(
                f"an ensemble takes two or more teachers and a weight for each: {len(self._members)} teachers, "
                f"{len(self._weights)} weights"
            )
        if min(self._weights) < 0 or not 0 < sum(self._weights) < float("inf"):
            raise UsageError(f"the weights of teachers must be 0 or more and not all 0, found {self._weights}")
        if weighting not in get_args(Weighting):
            raise UsageError(f"the weighting must be one of {', '.join(get_args(Weighting))}, found {weighting!r}")
        if weighting == "confidence" and (labels is None or labels.ndim != 1):
            raise UsageError(
                "teachers weighed by confidence are held against the labels: give one class for each training sample"
            )
        self._weighting = weighting
        self._labels = None if labels is None else torch.from_numpy(labels)

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of all that decides the answers; the labels are known by the samples'."""
        parts = {
            "members": [member.fingerprint for member in self._members],
            "weights": self._weights,
            "weighting": self._weighting,
        }
        return hashlib.sha256(canonical_json(parts)).hexdigest()

    @property
    def libraries(self) -> Sequence[str]:
        """The packages whose version matters to the answers."""
        return sorted({name for member in self._members for name in member.libraries})

    @contextmanager
    def ready(self, device: torch.device, taps: Sequence[str]) -> Iterator[Ask]:
        """Be ready to be asked; taps are places in the first teacher. See `Teacher`."""
        with ExitStack() as open_things:
            asks = [
                open_things.enter_context(member.ready(device, () if number else taps))
                for number, member in enumerate(self._members)
            ]

            def ask(inputs: Tensor, positions: Tensor, epoch: int) -> Answers:
                answers = [ask(inputs, positions, epoch) for ask in asks]
                shapes = {tuple(answer.logits.shape) for answer in answers}
                if len(shapes) > 1:
                    raise ModelError(
                        f"the teachers' logits have the shapes {', '.join(map(str, sorted(shapes)))}; all must know "
                        "the same classes"
                    )
                logits = torch.stack([wide(answer.logits) for answer in answers])
                shares = self._shares(logits, positions)
                return Answers((shares[:, :, None] * logits).sum(dim=0), answers[0].features)

            yield ask

    def _shares(self, logits: Tensor, positions: Tensor) -> Tensor:
        """Return how much each teacher counts for each sample, shape (teachers, N): columns sum to 1."""
        shares = torch.tensor(self._weights, dtype=logits.dtype, device=logits.device)[:, None]
        if self._weighting == "entropy":
            shares = shares * entropy_weights(logits)
        elif self._labels is not None and self._weighting == "confidence":
            if int(positions.max()) >= len(self._labels):
                raise UsageError(
                    f"teachers weighed by confidence were given {len(self._labels)} labels, and are asked about "
                    f"sample {int(positions.max())}; transfer samples have no labels: weigh by entropy"
                )
            shares = shares * confidence_weights(logits, self._labels[positions].to(logits.device))
        return (shares / shares.sum(dim=0)).expand(logits.shape[:2])


def confidence_weights(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how much each teacher counts by its loss on the label: CA-MKD (Zhang et al. 2022, arXiv:2201.00007).

    `(1 - exp(loss_k) / sum over teachers j of exp(loss_j)) / (K - 1)`, loss being the cross-entropy with the label.

    Args:
        logits: Of K teachers, shape (K, N, classes).
        labels: Shape (N,), int64.

    Returns:
        Shape (K, N); columns sum to 1.
    """
    chosen = labels.expand(len(logits), 1, -1).transpose(1, 2)
    return _least_first(-F.log_softmax(logits, dim=2).gather(2, chosen)[:, :, 0])


def entropy_weights(logits: Tensor) -> Tensor:
    """Return how much each teacher counts by how sure it is (after Kwon et al. 2020, ICASSP; no label is needed).

    As `confidence_weights`, with the entropy of each teacher's distribution in place of its loss.

    Args:
        logits: Of K teachers, shape (K, N, classes).

    Returns:
        Shape (K, N); columns sum to 1.
    """
    log_probabilities = F.log_softmax(logits, dim=2)
    return _least_first(-(log_probabilities.exp() * log_probabilities).sum(dim=2))


def _least_first(costs: Tensor) -> Tensor:
    """Return weights (K, N) that are the larger, the lower a teacher's cost; none is 0."""
    weights = (1 - F.softmax(costs, dim=0)).clamp_min(EPSILON)
    return weights / weights.sum(dim=0)
