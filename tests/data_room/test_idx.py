"""IDX files, plain and packed, and what may be wrong with them."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgekd.data.idx import open_idx
from edgekd.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def header(axes: int, *shape: int, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, axes]) + b"".join(extent.to_bytes(4, "big") for extent in shape)


@pytest.mark.parametrize("cache_mb", [0, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_samples_are_those_of_the_files(idx_folder: Callable[..., Path], packed: bool, cache_mb: int) -> None:
    folder = idx_folder(packed=packed)
    source = open_idx(folder, cache_mb=cache_mb)
    raw = b"".join(
        (gzip.decompress(path.read_bytes()) if packed else path.read_bytes())[16:]
        for path in sorted(folder.glob("*images*"), key=lambda path: path.name[1] != "r")
    )
    expected = np.frombuffer(raw, dtype=np.uint8).reshape(80, 6, 5, 1)
    for rows in (np.arange(80), np.array([70, 3, 59, 60, 3])):
        np.testing.assert_array_equal(source.pixels(rows), expected[rows])
    assert isinstance(source.parts[0], np.ndarray) == bool(cache_mb)
    assert (len(source), source.sample_shape, source.classes) == (80, (6, 5, 1), ("0", "1", "2", "3"))
    np.testing.assert_array_equal(source.labels, np.concatenate([np.arange(60) % 4, np.arange(20) % 4]))
    assert source.predefined_test is not None
    np.testing.assert_array_equal(np.flatnonzero(source.predefined_test), np.arange(60, 80))
    assert source.fingerprint == open_idx(idx_folder(packed=not packed)).fingerprint


def test_given_class_names(idx_folder: Callable[..., Path]) -> None:
    assert open_idx(idx_folder(), classes=("a", "b", "c", "d")).classes == ("a", "b", "c", "d")
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte: sample 3 has label 3.*expected.* 0 to 2"):
        open_idx(idx_folder(), classes=("a", "b", "c"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_images": None}, "no train-images-idx3-ubyte or train-images-idx3-ubyte.gz; expected the four"),
        ({"t10k_labels": None}, "no t10k-labels-idx1-ubyte or"),
        ({"train_images": b""}, "train-images-idx3-ubyte.*begins with nothing, expected 00 00 08 03"),
        ({"train_images": header(1, 60) + bytes(60)}, "begins with 00 00 08 01, expected 00 00 08 03"),
        ({"train_images": header(3, 60, 6, 5, kind=13)}, "begins with 00 00 0d 03"),
        ({"train_images": header(3, 60)}, "truncated: it ends within its header"),
        ({"train_images": header(3, 60, 6, 5) + bytes(1799)}, r"truncated.*\(60, 6, 5\), 1,800 values, found 1,799"),
        ({"train_images": header(3, 60, 6, 5) + bytes(1801)}, "goes on after the 1,800 values"),
        ({"train_images": header(3, 2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(9)}, "truncated"),
        ({"train_images": header(3, 0, 6, 5)}, "no samples"),
        ({"train_labels": header(1, 59) + bytes(59)}, "60 images, but .*train-labels.* has 59 labels"),
        ({"t10k_images": header(3, 20, 5, 6) + bytes(600)}, "training images are 6x5, test images 5x6"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_files(
    idx_folder: Callable[..., Path], changed: dict[str, bytes], message: str, packed: bool
) -> None:
    with pytest.raises(DataError, match=message):
        open_idx(idx_folder(packed=packed, **changed))


def test_damaged_gzip(idx_folder: Callable[..., Path]) -> None:
    folder = idx_folder(packed=True)
    path = folder / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 255
    for content in (whole[:-20], whole[: len(whole) // 2], b"no gzip at all", bytes(changed)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: damaged or not a gzip file"):
            open_idx(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        open_idx(tmp_path / "nowhere")
