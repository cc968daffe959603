"""Losses of logits: what the teacher says.

`weights` of shape (N,), where given, multiplies each sample's part before the mean over all N samples.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from edgekd.distillation.losses.numerics import EPSILON, unit, wide

if TYPE_CHECKING:
    from torch import Tensor


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Return the softened cross-entropy of Hinton et al. 2015 (arXiv:1503.02531), as a divergence.

    `T^2 * KL(softmax(teacher / T) || softmax(student / T))`, averaged over the samples. The factor `T^2` keeps
    the size of the gradient when the temperature changes.

    Args:
        student_logits: Shape (N, classes).
        teacher_logits: Shape (N, classes); no gradient flows into them.
        temperature: T > 0.
        weights: Shape (N,); 1 by default.
    """
    log_student, log_teacher = _log_softmax(student_logits, teacher_logits, temperature)
    return _mean(_divergence(log_teacher, log_student), weights) * temperature**2


def reverse_kl_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Return `T^2 * KL(student || teacher)` of the softened distributions (Gu et al. 2023, arXiv:2306.08543).

    It punishes what the student says and the teacher does not: a small student keeps to the teacher's main answers.
    Arguments as in `kd_loss`.
    """
    log_student, log_teacher = _log_softmax(student_logits, teacher_logits, temperature)
    return _mean(_divergence(log_student, log_teacher), weights) * temperature**2


def jensen_shannon_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    beta: float = 0.5,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the generalised Jensen-Shannon divergence of Agarwal et al. 2023 (arXiv:2306.13649), times `T^2`.

    `beta * KL(teacher || m) + (1 - beta) * KL(student || m)` with `m = beta * teacher + (1 - beta) * student`.
    It is bounded, and symmetric for beta = 0.5. Arguments as in `kd_loss`, and:

    Args:
        student_logits: Shape (N, classes).
        teacher_logits: Shape (N, classes).
        temperature: T > 0.
        beta: In (0, 1).
        weights: Shape (N,); 1 by default.
    """
    log_student, log_teacher = _log_softmax(student_logits, teacher_logits, temperature)
    log_mean = torch.logaddexp(log_teacher + math.log(beta), log_student + math.log1p(-beta))
    elements = beta * _divergence(log_teacher, log_mean) + (1 - beta) * _divergence(log_student, log_mean)
    return _mean(elements, weights) * temperature**2


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
    beta: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Return decoupled knowledge distillation (Zhao et al. 2022, arXiv:2203.08679).

    `T^2 * (alpha * TCKD + beta * NCKD)`: the divergence of how sure of the label both are, and that of how they
    share out the rest among the other classes. KD is `TCKD + (1 - p_teacher[label]) * NCKD`: it mutes the second
    part just where the teacher is sure.

    Args:
        student_logits: Shape (N, classes), at least 2 classes.
        teacher_logits: Shape (N, classes).
        labels: Shape (N,), int64.
        temperature: T > 0.
        alpha: Weight of the label's part.
        beta: Weight of the other classes' part.
        weights: Shape (N,); 1 by default.
    """
    student, teacher = wide(student_logits) / temperature, wide(teacher_logits.detach()) / temperature
    target = _divergence(_label_and_rest(teacher, labels), _label_and_rest(student, labels))
    log_student, log_teacher = (F.log_softmax(_others(logits, labels), dim=1) for logits in (student, teacher))
    others = _divergence(log_teacher, log_student)
    return (alpha * _mean(target, weights) + beta * _mean(others, weights)) * temperature**2


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    beta: float,
    gamma: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Return DIST (Huang et al. 2022, arXiv:2205.10536): only the order of things must agree.

    `T^2 * (beta * inter + gamma * intra)`, each one minus Pearson's correlation of the softened probabilities: over
    the classes of a sample, averaged over samples; and over the samples of a class, averaged over classes.

    Args:
        student_logits: Shape (N, classes).
        teacher_logits: Shape (N, classes).
        temperature: T > 0.
        beta: Weight of the relation among classes.
        gamma: Weight of the relation among samples.
        weights: Shape (N,); 1 by default. In the second part they weigh the samples of the correlation.
    """
    student = F.softmax(wide(student_logits) / temperature, dim=1)
    teacher = F.softmax(wide(teacher_logits.detach()) / temperature, dim=1)
    inter = 1 - (unit(student - student.mean(dim=1, keepdim=True), 1)
                 * unit(teacher - teacher.mean(dim=1, keepdim=True), 1)).sum(dim=1)  # fmt: skip
    intra = 1 - (_centred_columns(student, weights) * _centred_columns(teacher, weights)).sum(dim=0)
    return (beta * _mean(inter, weights) + gamma * intra.mean()) * temperature**2


def standardised_kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Return KD of standardised logits, LSKD (Sun et al. 2024, arXiv:2403.01427).

    Each sample's logits are shifted to mean 0 and scaled to standard deviation 1 before `kd_loss`: the student need
    not match the teacher's range. Arguments as in `kd_loss`; the paper's temperature is 2.
    """
    return kd_loss(_standardised(student_logits), _standardised(teacher_logits), temperature, weights)


def sigmoid_kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Return KD of every class for itself, for labels that may occur together (Yang et al. 2023, arXiv:2308.06453).

    `T^2 * sum over classes of KL(Bernoulli(sigmoid(teacher / T)) || Bernoulli(sigmoid(student / T)))`, averaged over
    the samples. Arguments as in `kd_loss`.
    """
    student, teacher = wide(student_logits) / temperature, wide(teacher_logits.detach()) / temperature
    yes = _divergence(F.logsigmoid(teacher), F.logsigmoid(student))
    no = _divergence(F.logsigmoid(-teacher), F.logsigmoid(-student))
    return _mean(yes + no, weights) * temperature**2


def confidence_weights(
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    threshold: float = 0.0,
    soft: bool = False,
) -> Tensor:
    """Return how much each sample's answer of the teacher counts: shape (N,), float32, no gradient.

    Args:
        teacher_logits: Shape (N, classes).
        labels: Shape (N,), int64: an answer whose largest logit is not the label's counts 0. None: it may.
        threshold: An answer whose largest probability (at temperature 1) is below counts 0.
        soft: What counts, counts by that probability instead of 1.
    """
    confidence, answer = F.softmax(wide(teacher_logits.detach()), dim=1).float().max(dim=1)
    counts = confidence >= threshold
    if labels is not None:
        counts = counts & (answer == labels)
    return counts * confidence if soft else counts.float()


def _log_softmax(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return (
        F.log_softmax(wide(student) / temperature, dim=1),
        F.log_softmax(wide(teacher.detach()) / temperature, dim=1),
    )


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the elements whose sum is KL(p || q)."""
    return log_p.exp() * (log_p - log_q)


def _mean(elements: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean over the samples, the first axis, of the weighed sums over the others."""
    if weights is not None:
        elements = elements * weights.reshape(-1, *[1] * (elements.ndim - 1))
    return elements.sum() / len(elements)


def _label_and_rest(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-probabilities of the label and of all other classes together, shape (N, 2)."""
    log_all = F.log_softmax(logits, dim=1)
    return torch.stack(
        [log_all.gather(1, labels[:, None])[:, 0], torch.logsumexp(_others(log_all, labels), dim=1)], dim=1
    )


def _others(values: Tensor, labels: Tensor) -> Tensor:
    """Return the columns that are not the label's, shape (N, classes - 1)."""
    samples, classes = values.shape
    other = torch.arange(classes, device=values.device) != labels[:, None]
    return values[other].reshape(samples, classes - 1)


def _centred_columns(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return columns with (weighed) mean 0 and length 1, so that their products are Pearson's correlations."""
    share = torch.ones_like(values[:, :1]) if weights is None else weights[:, None]
    mean = (share * values).sum(dim=0, keepdim=True) / share.sum().clamp_min(EPSILON)
    return unit(share.sqrt() * (values - mean), 0)


def _standardised(logits: Tensor) -> Tensor:
    centred = wide(logits) - wide(logits).mean(dim=1, keepdim=True)
    return unit(centred, 1) * math.sqrt(logits.shape[1] - 1)
