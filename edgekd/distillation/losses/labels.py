"""What labels say: one class for each sample, or several that occur together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def label_loss(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, labelled: Tensor | None = None
) -> Tensor:
    """Return the cross-entropy with the labels, averaged over the samples that have any.

    For labels that occur together it is the binary cross-entropy of every class, summed over the classes, as in
    `response.sigmoid_kd_loss`; smoothing then moves 0 and 1 towards one half.

    Args:
        logits: Shape (N, classes).
        labels: Classes, int64 of shape (N,); or 0 and 1, int64 of shape (N, classes).
        label_smoothing: Share of a label that is spread over all classes, or over yes and no.
        labelled: Which samples have labels, bool of shape (N,); None: all.
    """
    if labels.ndim == 1 and labelled is None:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if labels.ndim == 1:
        each = F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
    else:
        wanted = labels.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
        each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=1)
    return each.mean() if labelled is None else (each * labelled).sum() / labelled.sum().clamp(min=1)


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return which samples are right, bool of shape (N,): the largest logit, or the sign of every logit.

    Args:
        logits: Shape (N, classes).
        labels: As in `label_loss`. Where they occur together all of a sample's must be right (exact match).
    """
    if labels.ndim == 1:
        return logits.argmax(dim=1) == labels
    return ((logits > 0) == labels.bool()).all(dim=1)
