"""Samples without labels: where they are from, and how they are joined to those with labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgekd.data import SPLIT_NAMES, ArraySamples, open_splits
from edgekd.data.transfer import WithUnlabelled, spaced
from edgekd.data_settings import DigitsData, IdxData, ImageFolderData, NpzData, TransferSettings
from edgekd.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def digits(**transfer: Any) -> DigitsData:
    return DigitsData(source="digits", train=100, transfer=TransferSettings(**transfer))


def test_the_rest_is_what_no_split_took() -> None:
    splits = open_splits(digits(source="rest"), seed=0)
    assert splits.transfer is not None
    taken = np.concatenate(list(splits.indices.values()))
    everything = np.sort(np.concatenate([taken, splits.transfer.indices]))
    np.testing.assert_array_equal(everything, np.arange(1797))
    alone = open_splits(DigitsData(source="digits", train=100), seed=0)
    assert alone.fingerprint == splits.fingerprint
    assert alone.contract == splits.contract


def test_the_rest_holds_no_predefined_test(idx_folder: Callable[..., Path]) -> None:
    data = IdxData(source="idx", path=idx_folder(), train=8, transfer=TransferSettings(source="rest"))
    splits = open_splits(data, seed=0)
    assert splits.transfer is not None
    assert splits.transfer.indices.max() < 60
    assert len(splits.transfer) == 60 - sum(len(splits.split(name)) for name in SPLIT_NAMES if name != "test")


def test_so_many_evenly_spaced() -> None:
    splits = open_splits(digits(source="digits", samples=7), seed=0)
    assert splits.transfer is not None
    assert splits.transfer.indices.tolist() == [0, 256, 513, 770, 1026, 1283, 1540]
    assert spaced(3, 9).tolist() == [0, 1, 2]


def test_other_sources_are_prepared_as_the_data_is(
    make_npz: Callable[..., Path], make_images: Callable[..., Path], idx_folder: Callable[..., Path]
) -> None:
    """Labels are ignored or absent, and what another source sets aside for its test is left out."""
    pixels = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)
    for arrays in ({"x": pixels}, {"x": pixels, "labels": np.array([-1, 99, 0.5])}):
        splits = open_splits(digits(source="npz", path=make_npz(**arrays)), seed=0)
        assert splits.transfer is not None
        assert splits.transfer.labels is None
        found = splits.transfer.batch([1])[splits.contract.input]
        np.testing.assert_array_equal(found, splits.contract.prepare(pixels[1:2, ..., None]))
    names = ["train/a/0.png", "train/1.png", "test/b/2.png"]
    splits = open_splits(digits(source="image-folder", path=make_images(*names)), seed=0)
    assert splits.transfer is not None
    assert splits.transfer.batch([0, 1])["input"].shape == (2, 1, 8, 8)
    assert len(splits.transfer) == 2
    data = IdxData(
        source="idx", path=idx_folder(), transfer=TransferSettings(source="idx", path=idx_folder(packed=True))
    )
    splits = open_splits(data, seed=0)
    assert splits.transfer is not None
    assert len(splits.transfer) == 60


def test_what_does_not_fit_is_refused(make_npz: Callable[..., Path], make_images: Callable[..., Path]) -> None:
    vectors = np.zeros((40, 3), np.float32)
    npz = NpzData(source="npz", path=make_npz(x=vectors, labels=np.arange(40) % 2))
    folder = TransferSettings(source="image-folder", path=make_images("a.png", folder="pictures"))
    for data, message in (
        (DigitsData(source="digits", transfer=TransferSettings(source="rest")), "no sample of digits is left for it; let"),
        (digits(source="npz", path=npz.path), r"holds arrays of shape \[3\], the data images of shape \[8, 8, 1\]"),
        (npz.model_copy(update={"transfer": folder}), "data.transfer holds images, the data ready-made arrays"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            open_splits(data, seed=0)
    names = ["a/0.png", "b/1.png"]
    images = ImageFolderData(source="image-folder", path=make_images(*names, folder="i"), transfer=folder)
    assert images.transfer is folder


def test_unlabelled_samples_follow_the_labelled() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(n, 2)).astype(np.float32) for n in (5, 3))
    known = ArraySamples({"x": first, "labels": np.arange(5)}, name="known")
    joined = WithUnlabelled(labelled=known, unlabelled=ArraySamples({"pixels": second}))
    assert len(joined) == 8
    assert joined.labels.tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
    order = np.array([6, 0, 7, 4, 5])
    np.testing.assert_array_equal(joined.batch(order)["x"], np.concatenate([first, second])[order])
    np.testing.assert_array_equal(joined.batch([7])["x"], second[2:])
    np.testing.assert_array_equal(joined.batch([1])["x"], first[1:2])
    other = WithUnlabelled(labelled=known, unlabelled=ArraySamples({"pixels": second + 1}))
    assert joined.fingerprint != other.fingerprint
    wider = WithUnlabelled(labelled=known, unlabelled=ArraySamples({"x": np.zeros((3, 4), np.float32)}))
    with pytest.raises(DataError, match=r"samples of shape \[4\]; the labelled ones have shape \[2\]"):
        wider.batch([0, 6])
    several = WithUnlabelled(labelled=known, unlabelled=ArraySamples({"x": second, "y": second}))
    with pytest.raises(DataError, match="training takes one array of inputs, found 2: x, y"):
        several.batch([6])
