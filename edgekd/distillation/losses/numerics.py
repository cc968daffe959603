"""What the losses share: precision, and lengths that may be zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-6  # well above the rounding of float32 numbers around 1


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 at least: squares and exponentials of half precision overflow."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Return vectors along `dim` at length 1; those shorter than 1e-6 have no direction: zero, without gradient."""
    length = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    long_enough = length > EPSILON
    return torch.where(long_enough, vectors / torch.where(long_enough, length, 1), 0)
