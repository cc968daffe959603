"""Sharing samples out: train, validation, calibration and test, disjoint, stratified by class and seeded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgekd.artifact import canonical_json
from edgekd.data.contract import Contract
from edgekd.data.counter_random import Stream, permutation
from edgekd.data.digits import open_digits
from edgekd.data.idx import open_idx
from edgekd.data.image_folder import ImageFolder
from edgekd.data.npz_source import open_npz_source
from edgekd.data.pixel_statistics import measure_pixels
from edgekd.data.samples import ImageSamples
from edgekd.data.transfer import open_transfer
from edgekd.errors import DataError, RecipeError
from edgekd.text import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekd.data.sources import Source
    from edgekd.data_settings import DataSettings

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
        transfer: Others without labels, if the recipe names some: no split, and disjoint from the splits only where
            they are the rest of the same source.
    """

    train: ImageSamples
    validation: ImageSamples
    calibration: ImageSamples
    test: ImageSamples
    contract: Contract
    transfer: ImageSamples | None = None

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
        if not count:
            return np.empty(0, dtype=np.int64)
        left = self.left
        shares = [divmod(count * len(queue), left) for queue in self._queues]
        by_remainder = sorted(range(len(shares)), key=lambda label: -shares[label][1])
        quotas = [whole for whole, _ in shares]
        for label in by_remainder[: count - sum(quotas)]:
            quotas[label] += 1
        parts = [queue[:quota] for queue, quota in zip(self._queues, quotas, strict=True)]
        self._queues = [queue[quota:] for queue, quota in zip(self._queues, quotas, strict=True)]
        return np.sort(np.concatenate(parts))


def open_splits(settings: DataSettings, seed: int) -> Splits:
    """Open a recipe's source and share it out.

    Args:
        settings: The recipe's data section.
        seed: Of the random choice.

    Returns:
        Images in NCHW, or ready-made arrays as they are. Mean and standard deviation are measured on the training
        split where the recipe does not set them.

    Raises:
        DataError: the source is missing or damaged, has no labels, or a split is empty.
        RecipeError: settings that do not fit the source.
        MissingExtraError: the source needs a package that is not installed.
    """
    source, name = _open_source(settings)
    if source.labels is None:
        raise DataError(f"{source.name}: no class folders; expected <class>/<image>, since training needs labels")
    indices = stratified_split(source.labels, settings, seed, source.predefined_test, where=source.name)
    contract = _contract(settings, source, name, indices["train"])
    train, validation, calibration, test = (
        ImageSamples(name=f"{source.name}#{name}", source=source, indices=indices[name], contract=contract)
        for name in SPLIT_NAMES
    )
    transfer = None
    if settings.transfer is not None:
        transfer = open_transfer(settings.transfer, source, indices, contract)
    return Splits(
        train=train, validation=validation, calibration=calibration, test=test, contract=contract, transfer=transfer
    )


def _open_source(settings: DataSettings) -> tuple[Source, str]:
    """Return the source, and what the model's input is to be called."""
    if settings.source == "digits":
        return open_digits(), "input"
    if settings.source == "idx":
        return open_idx(settings.path, classes=settings.labels, cache_mb=settings.cache_mb), "input"
    if settings.source == "npz":
        return open_npz_source(settings.path)
    folder = ImageFolder(
        settings.path,
        labels=settings.labels,
        size=settings.size,
        colour=settings.colour,
        cache_mb=settings.cache_mb,
    )
    return folder, "input"


def _contract(settings: DataSettings, source: Source, name: str, train: NDArray[np.int64]) -> Contract:
    shape = source.sample_shape
    if not source.is_images:
        if settings.crop_padding or settings.flip:
            raise RecipeError(f"data.crop_padding and data.flip are for images; {source.name} holds arrays")
        return Contract(layout="as-is", shape=shape, labels=source.classes, input=name)
    given = {key: getattr(settings, key, None) for key in ("mean", "std")}
    for key, values in given.items():
        if values is not None and len(values) != shape[-1]:
            raise RecipeError(
                f"data.{key} has {counted(len(values), 'value')}, the images of {source.name} have "
                f"{counted(shape[-1], 'channel')}; give one for each"
            )
    mean, std = given["mean"], given["std"]
    if mean is None or std is None:
        measured = measure_pixels(source, train)
        mean, std = mean or measured[0], std or measured[1]
    return Contract(
        layout="NCHW",
        shape=(shape[2], *shape[:2]),
        colour="gray" if shape[2] == 1 else "RGB",
        mean=mean,
        std=std,
        labels=source.classes,
        input=name,
    )
