"""Samples: what every stage reads. Model-ready arrays by input name, batch by batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgekd.artifact import canonical_json
from edgekd.data.array_file import ArrayFile, row_blocks
from edgekd.data.labels import check_labels
from edgekd.errors import DataError
from edgekd.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from edgekd.data.contract import Contract
    from edgekd.data.sources import Source


class Samples(Protocol):
    """A fixed sequence of samples as a model takes them."""

    @property
    def name(self) -> str:
        """What messages call it, such as `"digits#test"`."""

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of the content it stands for: equal fingerprints give equal batches."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """The class of each sample, int64 of shape (len,), or None where there are none.

        Where classes occur together, a matrix of 0 and 1, int64 of shape (len, classes).
        """

    def __len__(self) -> int: ...

    def batch(self, positions: NDArray[np.int64] | Sequence[int]) -> dict[str, NDArray[Any]]:
        """Read samples.

        Args:
            positions: n numbers in [0, len), in any order.

        Returns:
            Arrays by input name, each of shape (n, *sample).

        Raises:
            DataError: a sample cannot be read, or holds NaN or an infinite value.
        """


def batches(samples: Samples, size: int, limit: int | None = None) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the samples in order.

    Args:
        samples: Where they are from.
        size: Samples in a batch; the last one may be smaller.
        limit: Stop after so many samples; None: all of them.
    """
    count = len(samples) if limit is None else min(limit, len(samples))
    for start in range(0, count, size):
        yield samples.batch(np.arange(start, min(start + size, count), dtype=np.int64))


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSamples:
    """Some samples of a source, prepared as the contract says.

    Attributes:
        name: What messages call it.
        source: Images, or ready-made arrays with an "as-is" contract.
        indices: The source's number of each sample, int64 of shape (len,).
        contract: How pixels become the model's input, and the input's name.
    """

    name: str
    source: Source
    indices: NDArray[np.int64]
    contract: Contract

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def labels(self) -> NDArray[np.int64] | None:
        """The class of each sample, int64 of shape (len,), or None where the source has none."""
        return None if self.source.labels is None else self.source.labels[self.indices]

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over the source's content, which samples these are, and how they are prepared."""
        contract = self.contract.to_json()
        prepared = {key: contract[key] for key in contract if key not in ("labels", "input", "output")}
        digest = hashlib.sha256(canonical_json({"source": self.source.fingerprint, "prepared": prepared}))
        digest.update(np.ascontiguousarray(self.indices, dtype="<i8").data)
        return digest.hexdigest()

    def batch(self, positions: NDArray[np.int64] | Sequence[int]) -> dict[str, NDArray[Any]]:
        """Return `{contract.input: float32 of shape (n, *contract.shape)}`. See `Samples.batch`."""
        indices = self.indices[np.asarray(positions, dtype=np.int64)]
        pixels = self.source.pixels(indices)
        check_finite(pixels, where=self.source.name, array=self.contract.input, indices=indices)
        return {self.contract.input: self.contract.prepare(pixels)}


class ArraySamples:
    """Arrays by input name, in memory or in a file. They keep their dtypes."""

    def __init__(
        self, arrays: Mapping[str, ArrayLike | ArrayFile], *, name: str = "arrays", classes: int | None = None
    ) -> None:
        """Check and keep the arrays.

        Args:
            arrays: By input name, first axis samples. The key `"labels"` holds the classes, integers of shape
                (len,), and is no input.
            name: What messages call it.
            classes: How many classes there are, where that is known.

        Raises:
            DataError: there are no arrays or no samples, first axes differ, values are Python objects, or labels
                are no classes.
        """
        self.name = name
        self._arrays: dict[str, NDArray[Any] | ArrayFile] = {
            key: value if isinstance(value, ArrayFile) else _in_memory(value, f"{name}: {key!r}")
            for key, value in arrays.items()
        }
        self._count = _count_samples(self._arrays, name)
        labels = self._arrays.pop("labels", None)
        self.labels: NDArray[np.int64] | None = None
        if labels is not None:
            self.labels = check_labels(_whole(labels), where=f"{name}: labels", classes=classes)
        if not self._arrays:
            raise DataError(f"{name}: no array besides the labels; expected one for each input of the model")

    def __len__(self) -> int:
        return self._count

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over names, dtypes, shapes and values of the arrays, and over the labels."""
        arrays = {key: [str(value.dtype), list(value.shape), _sha256(value)] for key, value in self._arrays.items()}
        labels = None if self.labels is None else _sha256(self.labels)
        return hashlib.sha256(canonical_json({"arrays": arrays, "labels": labels})).hexdigest()

    def batch(self, positions: NDArray[np.int64] | Sequence[int]) -> dict[str, NDArray[Any]]:
        """Return the arrays' rows at `positions`, dtypes unchanged. See `Samples.batch`."""
        indices = np.asarray(positions, dtype=np.int64)
        rows = {key: np.ascontiguousarray(value[indices]) for key, value in self._arrays.items()}
        for key, values in rows.items():
            check_finite(values, where=self.name, array=key, indices=indices)
        return rows


def check_finite(values: NDArray[Any], *, where: str, array: str, indices: NDArray[np.int64]) -> None:
    """Refuse NaN and infinite values in floating-point `values` of shape (n, ...).

    Raises:
        DataError: names the source, the array, and the first such sample by its number in `indices`.
    """
    if values.dtype.kind not in "fc" or np.isfinite(values).all():
        return
    finite = np.isfinite(values).reshape(len(values), -1)
    first = int(np.flatnonzero(~finite.all(axis=1))[0])
    found = "NaN" if np.isnan(values[first]).any() else "an infinite value"
    raise DataError(
        f"{where}: {array!r} holds {found} in sample {int(indices[first])}; expected finite numbers: "
        "repair or remove that sample"
    )


def _count_samples(arrays: Mapping[str, NDArray[Any] | ArrayFile], name: str) -> int:
    for key, value in arrays.items():
        if value.dtype.hasobject:
            raise DataError(
                f"{name}: {key!r} holds Python objects; expected numbers, all samples of one shape: pad or split them"
            )
        if value.ndim == 0:
            raise DataError(f"{name}: {key!r} is a single value; expected an array whose first axis is samples")
    lengths = {key: len(value) for key, value in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{key!r} has {counted(count, 'sample')}" for key, count in lengths.items())
        raise DataError(f"{name}: all arrays must have as many samples: {found}")
    if not lengths or not min(lengths.values()):
        raise DataError(f"{name}: no samples; expected at least one")
    return min(lengths.values())


def _in_memory(value: ArrayLike, where: str) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors that are tracked or elsewhere
        raise DataError(f"{where}: no array: {error}") from error


def _whole(array: NDArray[Any] | ArrayFile) -> NDArray[Any]:
    return array[np.arange(len(array))] if isinstance(array, ArrayFile) else array


def _sha256(array: NDArray[Any] | ArrayFile) -> str:
    """Hash the values in C order, block by block."""
    if isinstance(array, ArrayFile):
        return array.sha256
    digest = hashlib.sha256()
    for rows in row_blocks(array.shape, array.itemsize):
        digest.update(array[rows[0] : rows[-1] + 1].tobytes())
    return digest.hexdigest()
