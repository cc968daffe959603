"""Mean and standard deviation of pixels, for the input contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekd.data.sources import Source

MAX_MEASURED = 2_000
_BLOCK = 64
_GREY_LEVEL = round(1 / 255, 4)


def measure_pixels(source: Source, indices: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure each channel over all pixels of some images: of at most 2,000, spread evenly over `indices`.

    The sums are exact integers, so that the result is the same on every machine.

    Args:
        source: Of uint8 images.
        indices: int64 of shape (n,), the images that may be looked at.

    Returns:
        Mean and standard deviation of each channel in units of [0, 1], rounded to 4 decimals; a deviation is at
        least one grey level, so that an even image can be divided by it.
    """
    if len(indices) > MAX_MEASURED:
        indices = indices[np.arange(MAX_MEASURED) * len(indices) // MAX_MEASURED]
    channels = source.sample_shape[-1]
    total, squares, count = np.zeros(channels, dtype=np.uint64), np.zeros(channels, dtype=np.uint64), 0
    for start in range(0, len(indices), _BLOCK):
        pixels = source.pixels(indices[start : start + _BLOCK]).reshape(-1, channels).astype(np.uint32)
        total += pixels.sum(axis=0, dtype=np.uint64)
        squares += (pixels**2).sum(axis=0, dtype=np.uint64)
        count += len(pixels)
    means, deviations = [], []
    for sum_, square in zip(total.tolist(), squares.tolist(), strict=True):
        variance = (count * square - sum_**2) / (count * 255) ** 2
        means.append(round(sum_ / (count * 255), 4))
        deviations.append(max(round(variance**0.5, 4), _GREY_LEVEL))
    return tuple(means), tuple(deviations)
