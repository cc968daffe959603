"""What a source of samples is: images or arrays with their classes, before they are shared out and prepared."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgekd.artifact import canonical_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekd.data.array_file import ArrayFile


class Source(Protocol):
    """Samples in the order of their files, read when asked for."""

    @property
    def name(self) -> str:
        """What messages call it: a path or a well-known name."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each sample, int64 of shape (len,); None where there are none."""

    @property
    def predefined_test(self) -> NDArray[np.bool_] | None:
        """Which samples the source itself sets aside for the test, bool of shape (len,); None: it does not."""

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of the content: samples, labels and the predefined test split."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (height, width, channels) of an image, any shape of a ready-made array."""

    @property
    def is_images(self) -> bool:
        """Whether samples are uint8 images rather than ready-made arrays."""

    def __len__(self) -> int: ...

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Read samples.

        Returns:
            uint8 of shape (n, height, width, channels), RGB or gray; of ready-made arrays (n, *sample_shape).

        Raises:
            DataError: a sample cannot be read.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class ArraySource:
    """A source whose samples lie in one array, or in several of one shape after another.

    Attributes:
        name: What messages call it.
        parts: Arrays of shape (n, *sample), all of one dtype: in memory or in a file.
        sample_shape: Shape of one sample as `pixels` returns it; of as many values as `sample`.
        labels: Class of each sample, int64 of shape (sum of n,); None where there are none.
        classes: Names of the classes.
        content: Hex sha256 of the parts' values.
        predefined_test: Which samples are for the test.
    """

    name: str
    parts: tuple[NDArray[Any] | ArrayFile, ...]
    sample_shape: tuple[int, ...]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    content: str
    predefined_test: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def is_images(self) -> bool:
        """Whether samples are uint8 images rather than ready-made arrays."""
        return self.parts[0].dtype == np.uint8

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of samples, labels and the predefined test split."""
        return source_fingerprint(self.content, self.labels, self.predefined_test)

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Read samples. See `Source.pixels`."""
        values = np.empty((len(indices), *self.sample_shape), dtype=self.parts[0].dtype)
        start = 0
        for part in self.parts:
            here = (indices >= start) & (indices < start + len(part))
            if here.any():
                values[here] = part[indices[here] - start].reshape(-1, *self.sample_shape)
            start += len(part)
        return values


def source_fingerprint(
    content: str, labels: NDArray[np.int64] | None, predefined_test: NDArray[np.bool_] | None
) -> str:
    """Return the hex sha256 over the hash of the samples, the labels and the predefined test split."""
    digest = hashlib.sha256(
        canonical_json({"content": content, "labels": labels is not None, "test": predefined_test is not None})
    )
    for values in (labels, predefined_test):
        if values is not None:
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
