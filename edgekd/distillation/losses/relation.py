"""Losses of relations: how the samples of a batch lie to each other.

Features of any shape (N, ...) are taken as vectors of shape (N, D). Student and teacher need not have the same D.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from edgekd.distillation.losses.numerics import EPSILON, unit, wide

if TYPE_CHECKING:
    from torch import Tensor


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return relational KD by distances, RKD-D (Park et al. 2019, arXiv:1904.05068).

    Pairwise distances, in units of their mean over the pairs that differ, compared by Huber's loss; mean over all
    N^2 pairs.

    Args:
        student: Shape (N, ...).
        teacher: Shape (N, ...).
    """
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher.detach()))


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return relational KD by angles, RKD-A (Park et al. 2019, arXiv:1904.05068).

    The cosine of the angle at j between i and k, for all N^3 triples, compared by Huber's loss. It needs memory for
    N^2 vectors and N^3 numbers.

    Args:
        student: Shape (N, ...).
        teacher: Shape (N, ...).
    """
    return F.smooth_l1_loss(_angles(student), _angles(teacher.detach()))


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return similarity-preserving KD, SP (Tung and Mori 2019, arXiv:1907.09682).

    The Gram matrices of a batch, each row scaled to length 1: squared Frobenius distance over N^2.

    Args:
        student: Shape (N, ...).
        teacher: Shape (N, ...).
    """
    return F.mse_loss(_gram(student), _gram(teacher.detach()))


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return probabilistic knowledge transfer, PKT (Passalis and Tefas 2018, arXiv:1803.10837).

    `(cosine + 1) / 2` of two samples, over all others of a sample, is a distribution; the loss is the divergence of
    the student's from the teacher's, averaged over the samples.

    Args:
        student: Shape (N, ...), N at least 2.
        teacher: Shape (N, ...).
    """
    p, q = _neighbours(teacher.detach()), _neighbours(student)
    return (p * (p.log() - q.log())).sum() / len(p)


def correlation_loss(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Return correlation congruence, CC (Peng et al. 2019, arXiv:1904.01802).

    The kernel `exp(-gamma |a - b|^2)` of vectors at length 1, by its Taylor series
    `exp(-2 gamma) * sum over p <= order of (2 gamma)^p / p! * (a . b)^p`: mean squared difference over the N^2
    pairs.

    Args:
        student: Shape (N, ...).
        teacher: Shape (N, ...).
        gamma: Greater than 0; the paper's is 0.4.
        order: Terms of the series besides the constant; the paper's is 2.
    """
    return F.mse_loss(_kernel(student, gamma, order), _kernel(teacher.detach(), gamma, order))


def _vectors(features: Tensor) -> Tensor:
    return wide(features).flatten(1)


def _relative_distances(features: Tensor) -> Tensor:
    vectors = _vectors(features)
    # not by the matrix product: that loses small distances, and their gradients
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    apart = (distances > 0).sum().clamp_min(1)
    return distances / (distances.sum() / apart).clamp_min(EPSILON)


def _angles(features: Tensor) -> Tensor:
    vectors = _vectors(features)
    towards = unit(vectors[:, None] - vectors[None], 2)  # [i, j] from j to i
    towards = towards.transpose(0, 1)
    return torch.bmm(towards, towards.transpose(1, 2))


def _gram(features: Tensor) -> Tensor:
    vectors = _vectors(features)
    # the rows are scaled anyway: a common factor keeps the products finite and changes nothing
    vectors = vectors / vectors.detach().abs().amax().clamp_min(EPSILON)
    return unit(vectors @ vectors.T, 1)


def _neighbours(features: Tensor) -> Tensor:
    vectors = unit(_vectors(features), 1)
    likeness = ((vectors @ vectors.T + 1) / 2).clamp_min(1e-7)
    others = ~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    likeness = likeness[others].reshape(len(vectors), len(vectors) - 1)
    return likeness / likeness.sum(dim=1, keepdim=True)


def _kernel(features: Tensor, gamma: float, order: int) -> Tensor:
    vectors = unit(_vectors(features), 1)
    cosine = vectors @ vectors.T
    terms = [(2 * gamma) ** power / math.factorial(power) * cosine**power for power in range(order + 1)]
    return torch.stack(terms).sum(dim=0) * math.exp(-2 * gamma)
