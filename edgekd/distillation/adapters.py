"""Student features in the teacher's shape. Adapters train with the student and are never saved with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional as F

from edgekd.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


class Adapter(nn.Module):
    """A learnt linear map of the student's channels to the teacher's: a 1x1 convolution, or a linear layer.

    The shapes are those of a dry run, first axis samples.
    """

    def __init__(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
        super().__init__()
        _check(student, teacher)
        ours, theirs = channels(student), channels(teacher)
        as_maps = len(student) == len(teacher) == 4
        self.mapping: nn.Module = nn.Conv2d(ours, theirs, 1) if as_maps else nn.Linear(ours, theirs)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return both features with the same shape: channels mapped, the larger map pooled to the smaller one."""
        student, teacher = same_places(student, teacher)
        return self.mapping(student), teacher


def same_places(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both features with the same extents but for the channels.

    Of two maps (N, channels, height, width) the larger is averaged down to the smaller, axis by axis. A map of one
    pixel beside a vector becomes a vector.

    Raises:
        ModelError: one is a map and the other is not, or they have different numbers of tokens.
    """
    _check(tuple(student.shape), tuple(teacher.shape))
    if student.ndim != teacher.ndim:
        return student.flatten(1), teacher.flatten(1)
    if student.ndim == 4:
        size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
        return _pooled(student, size), _pooled(teacher, size)
    return student, teacher


def _pooled(features: Tensor, size: tuple[int, int]) -> Tensor:
    return features if features.shape[2:] == size else F.adaptive_avg_pool2d(features, size)


def pooled(features: Tensor) -> Tensor:
    """Return features (N, channels): maps are averaged over their pixels, tokens over the tokens."""
    axes = {4: (2, 3), 3: (1,), 2: ()}.get(features.ndim)
    if axes is None:
        raise ModelError(
            f"distill.terms: features of shape {('N', *features.shape[1:])}; a head takes maps (N, channels, height, "
            "width), tokens (N, tokens, channels) or vectors (N, channels)"
        )
    return features.mean(dim=axes) if axes else features


def channels(shape: tuple[int, ...]) -> int:
    """Return the number of channels of features of that shape, first axis samples."""
    return shape[1] if len(shape) == 4 else shape[-1]


def _check(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    kinds = {len(shape) for shape in (student, teacher)}
    vectors = all(len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1)) for shape in (student, teacher))
    same_tokens = len(student) != 3 or student[1] == teacher[1] if len(kinds) == 1 else False
    if kinds <= {2, 3, 4} and (vectors or same_tokens):
        return
    raise ModelError(
        f"distill.taps: the student's features have shape {('N', *student[1:])}, the teacher's "
        f"{('N', *teacher[1:])}; both must be maps (N, channels, height, width), vectors (N, channels), or as many "
        "tokens (N, tokens, channels)"
    )
