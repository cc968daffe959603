"""Small digits, a teacher and a student, for whole distillations in a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from edgekd.data.digits import open_digits
from edgekd.models import build

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def digits() -> tuple[Arrays, Arrays]:
    """Return 48 digits to train on and 32 to validate with: float32 (N, 1, 8, 8) in [-1, 1]."""
    source = open_digits()
    assert source.labels is not None
    pixels = source.pixels(np.arange(80)).astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1
    parts = slice(0, 48), slice(48, 80)
    first, second = ({"input": pixels[part], "labels": source.labels[:80][part]} for part in parts)
    return first, second


@pytest.fixture
def net() -> Callable[..., nn.Module]:
    """Return a maker of networks for them, by name and seed."""

    def make(name: str, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build(name, classes=10, shape=(1, 8, 8))

    return make
