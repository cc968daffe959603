"""Samples without labels, for a student to learn from by its teacher's word alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.data.digits import open_digits
from edgekd.data.idx import open_idx
from edgekd.data.image_folder import ImageFolder
from edgekd.data.npz_source import open_npz_source
from edgekd.data.samples import ImageSamples, Samples
from edgekd.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edgekd.data.contract import Contract
    from edgekd.data.sources import Source
    from edgekd.data_settings import TransferSettings


def open_transfer(
    settings: TransferSettings, source: Source, splits: Mapping[str, NDArray[np.int64]], contract: Contract
) -> ImageSamples:
    """Open a recipe's transfer samples, prepared like those of its splits.

    Args:
        settings: The recipe's section.
        source: That of the splits.
        splits: Its samples that are taken, by split.
        contract: How samples become the model's input.

    Raises:
        DataError: the source is missing, damaged or empty, or its samples are of another kind or shape.
    """
    own = settings.source == "rest"
    opened = source if own else _open(settings, contract)
    free = np.ones(len(opened), dtype=np.bool_)
    if opened.predefined_test is not None:
        free &= ~opened.predefined_test
    if own:
        free[np.concatenate(list(splits.values()))] = False
    indices = np.flatnonzero(free)
    if not len(indices):
        hint = "; let data.train leave some" if own else ""
        raise DataError(f"data.transfer: no sample of {opened.name} is left for it{hint}")
    if settings.samples is not None and settings.samples < len(indices):
        indices = indices[spaced(len(indices), settings.samples)]
    _check(opened, source)
    return ImageSamples(name=f"{opened.name}#transfer", source=opened, indices=indices, contract=contract)


def spaced(count: int, wanted: int) -> NDArray[np.int64]:
    """Return `wanted` of the numbers 0 to `count - 1`, evenly spaced; all if there are not more."""
    return np.arange(min(count, wanted), dtype=np.int64) * count // min(count, wanted)


def _open(settings: TransferSettings, contract: Contract) -> Source:
    if settings.source == "digits":
        return open_digits()
    assert settings.path is not None
    if settings.source == "idx":
        return open_idx(settings.path, cache_mb=settings.cache_mb)
    if settings.source == "npz":
        return open_npz_source(settings.path, labelled=False)[0]
    if contract.layout == "as-is":
        raise DataError(f"{settings.path}: data.transfer holds images, the data ready-made arrays")
    return ImageFolder(
        settings.path,
        labels="none",
        size=contract.size,
        colour="gray" if contract.colour == "gray" else "RGB",
        cache_mb=settings.cache_mb,
    )


def _check(opened: Source, source: Source) -> None:
    """Refuse samples that are not like the source's."""
    if (opened.is_images, opened.sample_shape) != (source.is_images, source.sample_shape):
        found, expected = (
            f"{'images' if one.is_images else 'arrays'} of shape {list(one.sample_shape)}" for one in (opened, source)
        )
        raise DataError(f"{opened.name}: data.transfer holds {found}, the data {expected}")


@dataclass(frozen=True, kw_only=True, eq=False)
class WithUnlabelled:
    """Samples with labels, followed by others that have none.

    Attributes:
        labelled: One array of inputs, and labels.
        unlabelled: One array of inputs of the same shape.
    """

    labelled: Samples
    unlabelled: Samples

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.labelled.name} + {self.unlabelled.name}"

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of both."""
        return hashlib.sha256(f"{self.labelled.fingerprint} {self.unlabelled.fingerprint}".encode()).hexdigest()

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The class of each sample; 0, which means nothing, from position `len(labelled)` on."""
        assert self.labelled.labels is not None
        known = self.labelled.labels
        return np.concatenate([known, np.zeros((len(self.unlabelled), *known.shape[1:]), dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabelled)

    def batch(self, positions: NDArray[np.int64] | Sequence[int]) -> dict[str, NDArray[Any]]:
        """Return samples under the name of the labelled ones' array. See `Samples.batch`."""
        wanted = np.asarray(positions, dtype=np.int64)
        first = wanted < len(self.labelled)
        name, known = self._only(self.labelled, wanted[first])
        _, others = self._only(self.unlabelled, wanted[~first] - len(self.labelled))
        if known.shape[1:] != others.shape[1:]:
            raise DataError(
                f"{self.unlabelled.name}: samples of shape {list(others.shape[1:])}; the labelled ones have shape "
                f"{list(known.shape[1:])}"
            )
        values = np.empty((len(wanted), *known.shape[1:]), dtype=np.float32)
        values[first], values[~first] = known, others
        return {name: values}

    @staticmethod
    def _only(samples: Samples, positions: NDArray[np.int64]) -> tuple[str, NDArray[Any]]:
        arrays = samples.batch(positions)
        if len(arrays) != 1:
            raise DataError(
                f"{samples.name}: training takes one array of inputs, found {len(arrays)}: {', '.join(arrays)}"
            )
        return next(iter(arrays.items()))
