"""The handwritten digits that scikit-learn ships: a small data set of real images that needs no download."""

from __future__ import annotations

import hashlib

import numpy as np

from edgekd.data.sources import ArraySource
from edgekd.errors import require_extra


def open_digits() -> ArraySource:
    """Return the 1,797 digits: uint8 of shape (8, 8, 1), the original's 0 to 16 scaled to 0 to 255.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    data = require_extra("train", "sklearn.datasets").load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = data.target.astype(np.int64)
    return ArraySource(
        name="digits",
        parts=(pixels,),
        sample_shape=pixels.shape[1:],
        labels=labels,
        classes=tuple(str(name) for name in data.target_names),
        content=hashlib.sha256(pixels.tobytes()).hexdigest(),
    )
