"""The real files of Debian's package `dataset-fashion-mnist`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekd.data import SPLIT_NAMES, Splits, open_splits
from edgekd.data_settings import IdxData

if TYPE_CHECKING:
    from pathlib import Path


def opened(folder: Path, **changed: int) -> Splits:
    return open_splits(IdxData(source="idx", path=folder, **changed), seed=0)


def test_fashion_mnist(fashion_mnist: Path) -> None:
    splits = opened(fashion_mnist)
    counts = {name: len(indices) for name, indices in splits.indices.items()}
    assert counts == {"train": 48_000, "validation": 6_000, "calibration": 6_000, "test": 10_000}
    for name in SPLIT_NAMES:
        assert np.ptp(np.bincount(splits.split(name).labels)) == 0, "its classes are of one size"
    # the figures known for this data set are 0.2860 and 0.3530 over all 60,000 images
    np.testing.assert_allclose([*splits.contract.mean, *splits.contract.std], [0.2860, 0.3530], atol=0.005)
    batch = splits.train.batch(np.arange(0, 48_000, 100))["input"]
    assert batch.shape == (480, 1, 28, 28)
    np.testing.assert_allclose([batch.mean(), batch.std()], [0, 1], atol=0.03)


def test_fashion_mnist_from_its_files_is_the_same(fashion_mnist: Path) -> None:
    cached, lazy = opened(fashion_mnist), opened(fashion_mnist, cache_mb=0)
    assert isinstance(cached.train.source.parts[0], np.ndarray)
    assert not isinstance(lazy.train.source.parts[0], np.ndarray)
    assert cached.fingerprint == lazy.fingerprint
    positions = np.array([5, 47_999, 0, 6])
    np.testing.assert_array_equal(cached.train.batch(positions)["input"], lazy.train.batch(positions)["input"])
