"""Sharing samples out: train, validation, calibration and test, disjoint, stratified by class and seeded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgekd.artifact import canonical_json
from edgekd.data.counter_random import Stream, permutation
from edgekd.errors import DataError
from edgekd.text import counted

if TYPE_CHECKING:

    from numpy.typing import NDArray

    from edgekd.data.contract import Contract
    from edgekd.data.samples import ImageSamples
    from edgekd.recipe import DataSettings

SPLIT_NAMES = ("train", "validation", "calibration", "test")


class SplitSizes(Protocol):
    """How large the splits are to be: `edgekd.recipe.SplitSettings`, or anything like it.

    A float is a share of the samples (of those outside the predefined test split, if there is one), an int a
    number of samples.
    """

    @property
    def test(self) -> int | float:
        """Not taken where the source sets its test samples aside itself."""

    @property
    def validation(self) -> int | float:
        """Chooses the best epoch."""

    @property
    def calibration(self) -> int | float:
        """Sets the ranges of the quantization."""

    @property
    def train(self) -> int | None:
        """At most so many; None: all that are left."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """The samples of one recipe, shared out.

    Attributes:
        train: Sets the weights.
        validation: Chooses the best epoch.
        calibration: Sets the ranges of the quantization.
        test: Judges, and nothing else.
        contract: What a model trained on them takes.
    """

    train: ImageSamples
    validation: ImageSamples
    calibration: ImageSamples
    test: ImageSamples
    contract: Contract

    @property
    def indices(self) -> dict[str, NDArray[np.int64]]:
        """The source's numbers of the samples of each split, ascending."""
        return {name: self.split(name).indices for name in SPLIT_NAMES}

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over the content of all splits."""
        return hashlib.sha256(
            canonical_json({name: self.split(name).fingerprint for name in SPLIT_NAMES})
        ).hexdigest()

    def split(self, name: str) -> ImageSamples:
        """Return the split called `name`, one of `SPLIT_NAMES`."""
        samples: ImageSamples = getattr(self, name)
        return samples


def stratified_split(
    labels: NDArray[np.int64],
    sizes: SplitSizes,
    seed: int,
    predefined_test: NDArray[np.bool_] | None = None,
    *,
    where: str = "data",
) -> dict[str, NDArray[np.int64]]:
    """Share samples out by class.

    Every split gets exactly the number of samples asked for. Each class has its proportional part of it, rounded
    down; what is left goes to the classes with the largest remainders, the lower label first. Which samples of a
    class are taken is random, and depends on the seed and their positions alone.

    Args:
        labels: Class of each sample, int64 of shape (n,).
        sizes: How large the splits are to be.
        seed: Of the random choice.
        predefined_test: bool of shape (n,): the test samples, where the source sets them aside itself.
        where: Names the source in messages.

    Returns:
        Sample numbers by split (`SPLIT_NAMES`), int64, ascending, disjoint.

    Raises:
        DataError: a split is empty, or more samples are asked for than there are.
    """
    pool = _Pool(labels, seed, predefined_test)
    total = pool.left
    taken: dict[str, NDArray[np.int64]] = {}
    if predefined_test is not None:
        taken["test"] = np.flatnonzero(predefined_test)
    for name in ("test", "validation", "calibration"):
        if name in taken:
            continue
        part: int | float = getattr(sizes, name)
        wanted = round(part * total) if isinstance(part, float) else part
        if wanted > pool.left:
            raise DataError(
                f"{where}: data.{name} = {part} asks for {counted(wanted, 'sample')}, but only {pool.left:,} of "
                f"{total:,} are left for it; ask for less"
            )
        taken[name] = pool.take(wanted)
    taken["train"] = pool.take(pool.left if sizes.train is None else min(sizes.train, pool.left))
    counts = ", ".join(f"{name} {len(taken[name]):,}" for name in SPLIT_NAMES)
    for name in SPLIT_NAMES:
        if not len(taken[name]):
            raise DataError(
                f"{where}: the {name} split is empty ({counts}; {counted(len(labels), 'sample')} in all); "
                "change the sizes of the splits or bring more samples"
            )
    return {name: taken[name] for name in SPLIT_NAMES}


class _Pool:
    """Samples not yet taken: for each class a queue in random order."""

    def __init__(self, labels: NDArray[np.int64], seed: int, excluded: NDArray[np.bool_] | None) -> None:
        order = permutation(len(labels), seed=seed, stream=Stream.SPLIT)
        if excluded is not None:
            order = order[~excluded[order]]
        self._queues = [order[labels[order] == label] for label in np.unique(labels[order])]

    @property
    def left(self) -> int:
        return sum(len(queue) for queue in self._queues)

    def take(self, count: int) -> NDArray[np.int64]:
        """Remove `count` samples, each class in proportion to what is left of it; return them, ascending."""
        left = self.left
        shares = [divmod(count * len(queue), left) for queue in self._queues]
        by_remainder = sorted(range(len(shares)), key=lambda label: -shares[label][1])
        quotas = [whole for whole, _ in shares]
        for label in by_remainder[: count - sum(quotas)]:
            quotas[label] += 1
        parts = [queue[:quota] for queue, quota in zip(self._queues, quotas, strict=True)]
        self._queues = [queue[quota:] for queue, quota in zip(self._queues, quotas, strict=True)]
        return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *parts]))


def open_splits(settings: DataSettings, seed: int) -> Splits:
    """Open a recipe's source, share it out, and measure the contract on its training split."""
    raise NotImplementedError
