"""Vectors that test how a platform prepares its inputs: what this machine made of the same pixels."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from edgekd.data.image_folder import cover

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekd.data import Contract

# Height and width in relation to what the model takes: one image shrinks, one grows, one has the size already.
_EXTENTS: Final = ((1.37, 1.15), (0.43, 0.71), (1.0, 1.0))
_LARGEST: Final = 512  # of either extent of an image that is scaled


def sample_images(contract: Contract) -> list[NDArray[np.uint8]]:
    """Return images of several sizes, uint8 (height, width, 3): ramps, noise and hard edges, always the same."""
    random = np.random.default_rng(0)
    images = []
    for tall, wide in _EXTENTS:
        height, width = (
            extent if share == 1 else max(1, min(_LARGEST, round(extent * share)) | 1)
            for extent, share in zip(contract.size, (tall, wide), strict=True)
        )
        rows, columns = np.mgrid[:height, :width] / np.maximum([height - 1, width - 1], 1)[:, None, None]
        ramps = 255 * np.stack([rows, columns, 1 - rows * columns], axis=-1)
        noisy = ramps + random.normal(0, 40, ramps.shape)
        noisy[rows + columns > 1.5] = 255 * random.integers(0, 2, 3)  # an edge, over which bicubic filters overshoot
        images.append(noisy.clip(0, 255).astype(np.uint8))
    return images


def prepared(pixels: NDArray[np.uint8], contract: Contract) -> NDArray[np.float32]:
    """Return an image, (height, width, 3) RGB, as the model takes it, without the batch axis."""
    image = Image.fromarray(pixels).convert("L" if contract.colour == "gray" else "RGB")
    height, width = contract.size
    batch = contract.prepare(np.asarray(cover(image, (height, width))).reshape(1, height, width, -1))
    values: NDArray[np.float32] = batch[0]
    return values


def tensor_sha256(values: NDArray[np.float32]) -> str:
    """Return the hex sha256 of a tensor's bytes, little-endian, row after row."""
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()
