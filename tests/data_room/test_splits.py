"""Sharing samples out: exact, disjoint, stratified, seeded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.data import SPLIT_NAMES, open_splits, stratified_split
from edgekd.data.pixel_statistics import measure_pixels
from edgekd.data.sources import ArraySource
from edgekd.data_settings import DigitsData, IdxData, ImageFolderData, NpzData, SplitSettings
from edgekd.errors import DataError, MissingExtraError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PARTS = st.one_of(st.integers(1, 40), st.floats(0.02, 0.6))
LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=200).map(lambda values: np.array(values, dtype=np.int64))


@st.composite
def requests(draw: st.DrawFn) -> tuple[np.ndarray, SplitSettings, int, np.ndarray | None]:
    labels = draw(LABELS)
    sizes = SplitSettings(
        test=draw(PARTS), validation=draw(PARTS), calibration=draw(PARTS), train=draw(st.none() | st.integers(1, 90))
    )
    test = draw(st.none() | st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)).map(np.array))
    return labels, sizes, draw(st.integers(0, 2**32 - 1)), test


def wanted(part: float, total: int) -> int:
    return round(part * total) if isinstance(part, float) else part


@settings(deadline=None, max_examples=300)
@given(requests())
def test_splits_are_exact_disjoint_stratified_and_repeatable(
    request: tuple[np.ndarray, SplitSettings, int, np.ndarray | None],
) -> None:
    labels, sizes, seed, test = request
    total = len(labels) if test is None else int((~test).sum())
    counts = {name: wanted(getattr(sizes, name), total) for name in ("test", "validation", "calibration")}
    if test is not None:
        counts["test"] = 0
    left = total - sum(counts.values())
    counts["train"] = left if sizes.train is None else min(sizes.train, left)
    if test is not None:
        counts["test"] = int(test.sum())
    if min(counts.values()) < 1:
        with pytest.raises(DataError, match=r"split is empty|are left for it"):
            stratified_split(labels, sizes, seed, test)
        return
    found = stratified_split(labels, sizes, seed, test)
    assert tuple(found) == SPLIT_NAMES
    assert {name: len(indices) for name, indices in found.items()} == counts
    everything = np.concatenate(list(found.values()))
    assert len(np.unique(everything)) == len(everything)
    assert all((np.diff(indices) > 0).all() for indices in found.values())
    if test is not None:
        np.testing.assert_array_equal(found["test"], np.flatnonzero(test))
    check_proportions(labels, found, test)
    again = stratified_split(labels, sizes, seed, test)
    assert all(np.array_equal(found[name], again[name]) for name in SPLIT_NAMES)


def check_proportions(labels: np.ndarray, found: dict[str, np.ndarray], test: np.ndarray | None) -> None:
    """Each split takes of each class its share of what the splits before it have left, to within one sample."""
    left = np.bincount(labels if test is None else labels[~test], minlength=6)
    for name in ("test", "validation", "calibration", "train"):
        if name == "test" and test is not None:
            continue
        taken = np.bincount(labels[found[name]], minlength=6)
        share = len(found[name]) * left / left.sum()
        assert (np.abs(taken - share) < 1).all()
        left = left - taken


def test_the_largest_remainders_get_what_is_left() -> None:
    labels = np.repeat([0, 1, 2], [5, 3, 2])  # quotas of 4 test samples: 2.0, 1.2, 0.8
    found = stratified_split(labels, SplitSettings(test=4, validation=1, calibration=1), 0)
    assert np.bincount(labels[found["test"]]).tolist() == [2, 1, 1]


def test_another_seed_chooses_others_and_a_cap_nests() -> None:
    labels = np.arange(1000) % 10
    first, second = (stratified_split(labels, SplitSettings(), seed) for seed in (0, 1))
    assert all(len(first[name]) == len(second[name]) != 0 for name in SPLIT_NAMES)
    assert all(0 < len(np.intersect1d(first[name], second[name])) < len(first[name]) for name in SPLIT_NAMES)
    capped = stratified_split(labels, SplitSettings(train=50), 0)
    assert np.isin(capped["train"], first["train"]).all()
    assert np.bincount(labels[capped["train"]]).tolist() == [5] * 10


def test_splits_stay_what_they_are() -> None:
    """Written down: a changed order would silently put test samples of an old run into a new training split."""
    found = stratified_split(np.arange(20) % 2, SplitSettings(), 7)
    assert {name: indices.tolist() for name, indices in found.items() if name != "train"} == WRITTEN


WRITTEN = {"test": [12, 15, 16, 17], "validation": [6, 11], "calibration": [2, 3]}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"validation": 0.001},
            r"d: the validation split is empty \(train 7, validation 0, calibration 1, test 2; 10 samples in all\)",
        ),
        ({"test": 8, "validation": 1, "calibration": 1}, r"the train split is empty \(train 0, validation 1,"),
        ({"test": 9, "validation": 1, "calibration": 0.01}, r"the train split is empty \(train 0, .* calibration 0,"),
        ({"test": 8, "validation": 3}, r"data.validation = 3 asks for 3 samples, but only 2 of 10 are left for it"),
    ],
)
def test_an_empty_split(sizes: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        stratified_split(np.zeros(10, dtype=np.int64), SplitSettings(**sizes), 0, where="d")


def test_digits() -> None:
    splits = open_splits(DigitsData(source="digits"), seed=3)
    assert {name: len(indices) for name, indices in splits.indices.items()} == {
        "train": 1078,
        "validation": 180,
        "calibration": 180,
        "test": 359,
    }
    assert splits.test.name == "digits#test"
    assert (splits.contract.layout, splits.contract.shape, splits.contract.colour) == ("NCHW", (1, 8, 8), "gray")
    assert splits.contract.labels == tuple("0123456789")
    everything = splits.train.batch(np.arange(1078))["input"]
    assert everything.dtype == np.float32
    np.testing.assert_allclose([everything.mean(), everything.std()], [0, 1], atol=1e-3)
    raw = splits.train.source.pixels(splits.train.indices)
    assert (raw.dtype, raw.min(), raw.max()) == (np.uint8, 0, 255)
    assert splits.fingerprint == open_splits(DigitsData(source="digits"), seed=3).fingerprint
    assert splits.fingerprint != open_splits(DigitsData(source="digits"), seed=4).fingerprint
    assert len({splits.split(name).fingerprint for name in SPLIT_NAMES}) == 4


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    monkeypatch.delitem(__import__("sys").modules, "sklearn.datasets", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgekd\[train\]'"):
        open_splits(DigitsData(source="digits"), seed=0)


def test_idx_files_bring_their_test_split(idx_folder: Callable[..., Path]) -> None:
    splits = open_splits(IdxData(source="idx", path=idx_folder(), labels=("a", "b", "c", "d"), mean=(0.5,)), seed=0)
    np.testing.assert_array_equal(splits.test.indices, np.arange(60, 80))
    assert {name: len(indices) for name, indices in splits.indices.items()} == {
        "train": 48,
        "validation": 6,
        "calibration": 6,
        "test": 20,
    }
    assert splits.contract.mean == (0.5,)
    assert splits.contract.std != (0.5,)
    assert splits.contract.labels == ("a", "b", "c", "d")
    assert splits.contract.shape == (1, 6, 5)


def test_the_contract_is_measured_on_the_training_split_only(make_npz: Callable[..., Path]) -> None:
    labels = np.arange(300) % 3
    images = np.random.default_rng(0).integers(0, 256, (300, 4, 5, 3), dtype=np.uint8)
    path = make_npz(images=images, labels=labels)
    splits = open_splits(NpzData(source="npz", path=path, train=100), seed=0)
    seen = images[splits.train.indices] / 255
    np.testing.assert_allclose(splits.contract.mean, seen.mean(axis=(0, 1, 2)), atol=5.1e-5)
    np.testing.assert_allclose(splits.contract.std, seen.std(axis=(0, 1, 2)), atol=5.1e-5)
    assert all(value == round(value, 4) for value in (*splits.contract.mean, *splits.contract.std))
    assert (splits.contract.input, splits.contract.shape, splits.contract.colour) == ("images", (3, 4, 5), "RGB")
    batch = splits.test.batch([1, 0])["images"]
    raw = images[splits.test.indices[[1, 0]]].transpose(0, 3, 1, 2) / 255
    mean, std = (np.array(values)[:, None, None] for values in (splits.contract.mean, splits.contract.std))
    np.testing.assert_allclose(batch, (raw - mean) / std, atol=1e-5)


def test_an_even_image_can_be_divided_by_its_deviation() -> None:
    pixels = np.full((3, 2, 2, 1), 7, dtype=np.uint8)
    source = ArraySource(
        name="s", parts=(pixels,), sample_shape=(2, 2, 1), labels=np.zeros(3, np.int64), classes=("0",), content=""
    )
    assert measure_pixels(source, np.arange(3)) == ((0.0275,), (0.0039,))


def test_no_more_than_2000_images_are_measured() -> None:
    class Counting(ArraySource):
        def pixels(self, indices: np.ndarray) -> np.ndarray:
            seen.extend(indices.tolist())
            return super().pixels(indices)

    seen: list[int] = []
    pixels = np.zeros((9000, 1, 1, 1), dtype=np.uint8)
    source = Counting(
        name="s", parts=(pixels,), sample_shape=(1, 1, 1), labels=np.zeros(9000, np.int64), classes=("0",), content=""
    )
    measure_pixels(source, np.arange(1000, 9000))
    assert seen == list(range(1000, 9000, 4))


def test_ready_made_arrays_go_in_as_they_are(make_npz: Callable[..., Path]) -> None:
    x = np.random.default_rng(0).normal(size=(40, 2, 3))
    splits = open_splits(NpzData(source="npz", path=make_npz(x=x, labels=np.arange(40) % 2)), seed=0)
    assert (splits.contract.layout, splits.contract.shape, splits.contract.input) == ("as-is", (2, 3), "x")
    np.testing.assert_array_equal(splits.test.batch([0, 1])["x"], x[splits.test.indices[:2]].astype(np.float32))


def test_nan_is_named_by_its_place_in_the_file(make_npz: Callable[..., Path]) -> None:
    x = np.zeros((40, 3), dtype=np.float32)
    x[17] = np.nan
    splits = open_splits(NpzData(source="npz", path=make_npz(x=x, labels=np.arange(40) % 2)), seed=0)
    holder = next(splits.split(name) for name in SPLIT_NAMES if 17 in splits.indices[name])
    with pytest.raises(DataError, match=r"data\.npz: 'x' holds NaN in sample 17; expected finite numbers"):
        holder.batch(np.arange(len(holder)))


GOOD = {"x": np.zeros((40, 3), dtype=np.float32), "labels": np.arange(40) % 2}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GOOD["x"]}, "expected 'labels' and one array of samples, found: x"),
        ({**GOOD, "y": GOOD["x"]}, "found: x, labels, y"),
        ({**GOOD, "labels": np.arange(39)}, r"'x' has shape \(40, 3\), 'labels' has shape \(39,\)"),
        ({**GOOD, "x": np.zeros(40, np.float32)}, r"'x' has shape \(40,\)"),
        ({"x": GOOD["x"][:0], "labels": np.arange(0)}, "no samples"),
        ({**GOOD, "x": np.zeros((40, 3), np.int64)}, r"found int64 of shape \(40, 3\); expected uint8 images"),
        ({**GOOD, "x": np.zeros((40, 3, 8, 8), np.uint8)}, r"found uint8 of shape \(40, 3, 8, 8\)"),
        ({**GOOD, "labels": GOOD["labels"] * 1.0}, "labels: expected whole numbers"),
        ({**GOOD, "labels": GOOD["labels"] - 1}, "labels: sample 0 has label -1"),
    ],
)
def test_an_npz_file_that_is_no_source(
    make_npz: Callable[..., Path], arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_splits(NpzData(source="npz", path=make_npz(**arrays)), seed=0)


def test_settings_that_do_not_fit_the_source(make_npz: Callable[..., Path], idx_folder: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match=r"data\.crop_padding and data\.flip are for images; .* holds arrays"):
        open_splits(NpzData(source="npz", path=make_npz(**GOOD), flip=True), seed=0)
    with pytest.raises(RecipeError, match=r"data\.std has 3 values, the images of .* have 1 channel; give one"):
        open_splits(IdxData(source="idx", path=idx_folder(), std=(1.0, 1.0, 1.0)), seed=0)


def test_an_image_folder(make_images: Callable[..., Path]) -> None:
    names = [f"{split}/{kind}/{number}.png" for split in ("train", "test") for kind in "ab" for number in range(10)]
    data = ImageFolderData(source="image-folder", path=make_images(*names), size=(4, 4), colour="gray")
    splits = open_splits(data, seed=0)
    assert (splits.contract.shape, splits.contract.labels) == ((1, 4, 4), ("a", "b"))
    assert len(splits.test) == 20
    assert splits.test.labels is not None
    assert splits.test.labels.tolist() == [0] * 10 + [1] * 10
    with pytest.raises(DataError, match=r"no class folders; expected <class>/<image>, since training needs labels"):
        open_splits(ImageFolderData(source="image-folder", path=make_images("1.png", folder="flat")), seed=0)
