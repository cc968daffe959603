"""Losses of features: how the teacher sees, at one place of both networks.

A feature map has shape (N, channels, height, width), token features (N, tokens, channels), a vector (N, channels).
Student features come in the teacher's shape: `edgekd.distillation.adapters` see to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from edgekd.distillation.losses.numerics import EPSILON, unit, wide

if TYPE_CHECKING:
    from torch import Tensor


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of features: the hint of FitNets (Romero et al. 2015, arXiv:1412.6550).

    Args:
        student: Adapted features, of the teacher's shape.
        teacher: Features of any shape (N, ...).
    """
    return F.mse_loss(wide(student), wide(teacher.detach()))


def attention_loss(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    """Return attention transfer (Zagoruyko and Komodakis 2017, arXiv:1612.03928).

    Each place's attention is the mean of `|activation|^power` over the channels; a sample's map of it is scaled to
    length 1. The loss is the mean squared difference of the maps, as in that paper's code.

    Args:
        student: Shape (N, channels, height, width) or (N, tokens, channels).
        teacher: The same but for the number of channels.
        power: At least 1.
    """
    return F.mse_loss(_attention(student, power), _attention(teacher.detach(), power))


def vid_loss(mean: Tensor, teacher: Tensor, raw_variance: Tensor, least_variance: float = 1e-5) -> Tensor:
    """Return variational information distillation (Ahn et al. 2019, arXiv:1904.05835).

    The mean of `((teacher - mean)^2 / variance + log variance) / 2`: the negative log-likelihood, but for a constant,
    of the teacher's features under a Gaussian around what the student makes of them. One variance a channel is
    learnt: `softplus(raw_variance) + least_variance`.

    Args:
        mean: Adapted student features, of the teacher's shape.
        teacher: Shape (N, channels, height, width), (N, tokens, channels) or (N, channels).
        raw_variance: Shape (channels,).
        least_variance: Greater than 0.
    """
    variance = F.softplus(wide(raw_variance)) + least_variance
    if teacher.ndim == 4:
        variance = variance[:, None, None]
    squares = (wide(teacher.detach()) - wide(mean)) ** 2
    return ((squares / variance + variance.log()) / 2).mean()


def _attention(features: Tensor, power: float) -> Tensor:
    channels = 1 if features.ndim == 4 else 2
    # scaled by the largest activation first: a power of a large one overflows
    size = wide(features).abs()
    size = size / size.detach().amax(dim=tuple(range(1, size.ndim)), keepdim=True).clamp_min(EPSILON)
    return unit((size**power).mean(dim=channels).flatten(1), 1)
