"""Arrays in memory as samples, and reading in order."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.data import ArraySamples, batches
from edgekd.errors import DataError

X = np.arange(24, dtype=np.float32).reshape(6, 4)
Y = np.array([0, 1, 2, 0, 1, 2])


def test_arrays_keep_their_dtypes_and_labels_are_no_input() -> None:
    ids = np.arange(12, dtype=np.int64).reshape(6, 2)
    samples = ArraySamples({"x": X, "ids": ids, "mask": ids.astype(np.int32) % 2, "labels": Y.astype(np.uint8)})
    batch = samples.batch([4, 1])
    assert {name: values.dtype.name for name, values in batch.items()} == {
        "x": "float32",
        "ids": "int64",
        "mask": "int32",
    }
    np.testing.assert_array_equal(batch["ids"], ids[[4, 1]])
    assert samples.labels is not None
    assert samples.labels.dtype == np.int64
    np.testing.assert_array_equal(samples.labels, Y)


@pytest.mark.parametrize(
    ("size", "limit", "expected"), [(4, None, [4, 2]), (4, 5, [4, 1]), (9, 100, [6]), (2, 4, [2, 2])]
)
def test_batches_run_in_order(size: int, limit: int | None, expected: list[int]) -> None:
    found = [batch["x"] for batch in batches(ArraySamples({"x": X}), size, limit)]
    assert [len(values) for values in found] == expected
    np.testing.assert_array_equal(np.concatenate(found), X[: sum(expected)])


def test_the_fingerprint_is_of_the_content() -> None:
    samples = ArraySamples({"x": X, "labels": Y}, name="a")
    assert samples.fingerprint == ArraySamples({"labels": Y, "x": np.asfortranarray(X)}, name="b").fingerprint
    others = [{"x": X}, {"y": X, "labels": Y}, {"x": X.reshape(6, 2, 2), "labels": Y}, {"x": X + 1, "labels": Y}]
    others += [{"x": X, "labels": Y[::-1]}, {"x": X.view(np.int32), "labels": Y}]
    assert len({samples.fingerprint, *(ArraySamples(arrays).fingerprint for arrays in others)}) == 7


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "no samples"),
        ({"labels": Y}, "no array besides the labels"),
        ({"x": X[:0]}, "data: no samples; expected at least one"),
        ({"x": X, "labels": Y[:5]}, "'x' has 6 samples, 'labels' has 5 samples"),
        ({"x": np.array([{}, []], dtype=object)}, "'x' holds Python objects"),
        ({"x": np.float32(1)}, "'x' is a single value"),
        ({"x": [[1.0, 2.0], [3.0]]}, "'x': no array"),
        ({"x": X, "labels": Y.astype(np.float32)}, "labels: expected whole numbers.*found float32"),
        ({"x": X, "labels": Y[:, None]}, r"labels: expected whole numbers.*shape \(6, 1\)"),
        ({"x": X, "labels": Y - 1}, "labels: sample 0 has label -1, which is out of range; expected.* 0 to 2"),
        ({"x": X, "labels": Y + 1}, "labels: sample 2 has label 3, which is out of range"),
    ],
)
def test_what_is_no_data(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ArraySamples(arrays, name="data", classes=3)


def test_a_label_that_makes_no_sense_is_found_without_knowing_the_classes() -> None:
    with pytest.raises(DataError, match="label 4294967296, which is out of range"):
        ArraySamples({"x": X, "labels": Y + 2**32})


@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "NaN"), (np.inf, "an infinite value"), (-np.inf, "an infinite value")]
)
def test_a_number_that_is_none_is_named_with_its_place(value: float, word: str) -> None:
    broken = X.copy()
    broken[5, 2] = value
    samples = ArraySamples({"ok": X, "x": broken}, name="data.npz")
    samples.batch([0, 4])
    with pytest.raises(DataError, match=rf"data\.npz: 'x' holds {word} in sample 5"):
        samples.batch([3, 5, 1])
