"""Random words that depend on nothing but their address: seed, stream, epoch and position.

Philox is counter-based, and its raw output is the same in every numpy release (NEP 19), unlike what `Generator`
makes of it. So a draw does not depend on how many came before it, in which process, or where a run was resumed.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Stream(IntEnum):
    """What the words are for; streams of one seed are independent of each other."""

    SPLIT = 1
    ORDER = 2
    AUGMENTATION = 3
    SYNTHETIC = 4


def random_words(count: int, *, seed: int, stream: Stream, epoch: int = 0) -> NDArray[np.uint64]:
    """Return `count` random words, uint64 of shape (count,). Word i depends on the other arguments and i alone."""
    generator = np.random.Philox(
        key=np.array([seed, stream], dtype=np.uint64), counter=np.array([0, 0, 0, epoch], dtype=np.uint64)
    )
    return np.asarray(generator.random_raw(count), dtype=np.uint64)


def permutation(count: int, *, seed: int, stream: Stream, epoch: int = 0) -> NDArray[np.int64]:
    """Return the numbers 0 to count - 1 in random order, int64 of shape (count,)."""
    return np.argsort(random_words(count, seed=seed, stream=stream, epoch=epoch), kind="stable")
