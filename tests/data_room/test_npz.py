"""`.npz` files: what is read equals what was written, and damage is found."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgekd.data import ArraySamples, open_data
from edgekd.data.npz import array_names, open_npz
from edgekd.data.npz_source import open_npz_source
from edgekd.errors import DataError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RNG = np.random.default_rng(0)
ARRAYS = {
    "x": RNG.normal(size=(50, 3, 4)).astype(np.float32),
    "fortran": np.asfortranarray(RNG.normal(size=(50, 3, 2, 5)).astype(np.float32)),
    "big_endian": RNG.integers(0, 99, (50, 2)).astype(">i8"),
    "half": RNG.normal(size=50).astype(np.float16),
    "text": np.array([f"word {number}" for number in range(50)]),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_rows_are_those_that_were_written(make_npz: Callable[..., Path], compressed: bool) -> None:
    opened = open_npz(make_npz(compressed=compressed, **ARRAYS), list(ARRAYS))
    for rows in (np.arange(50), RNG.integers(0, 50, 70), np.array([49, 0, 1, 2, 2]), np.arange(0)):
        for name, expected in ARRAYS.items():
            found = opened[name][rows]
            np.testing.assert_array_equal(found, expected[rows])
            assert found.dtype == expected.dtype.newbyteorder("=")
    assert opened["x"].nbytes == ARRAYS["x"].nbytes
    with pytest.raises(IndexError, match="rows 3 to 50 of 50"):
        opened["x"][np.array([50, 3])]


def test_a_file_and_the_same_arrays_in_memory_have_one_fingerprint(make_npz: Callable[..., Path]) -> None:
    arrays = {name: ARRAYS[name] for name in ("x", "fortran", "half")}
    expected = ArraySamples(arrays).fingerprint
    for compressed in (False, True):
        assert open_data(make_npz(compressed=compressed, **arrays), inputs=()).fingerprint == expected


def test_only_wanted_members_are_read(make_npz: Callable[..., Path]) -> None:
    path = make_npz(good=ARRAYS["x"], bad=np.array([None]))
    assert array_names(path) == ["good", "bad"]
    assert list(open_npz(path, ["good"])) == ["good"]


@pytest.mark.parametrize("keep", [0, 10, 400, -30])
def test_truncated(make_npz: Callable[..., Path], keep: int) -> None:
    path = make_npz(x=ARRAYS["x"])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"data\.npz: damaged, or not written by numpy.savez"):
        open_npz(path, ["x"])


def test_missing_file_missing_array_and_folder(make_npz: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz: no such file"):
        open_npz(tmp_path / "none.npz", ["x"])
    with pytest.raises(
        DataError, match=r"no array 'imags' \(perhaps you meant 'images'\?\); it holds: images, labels"
    ):
        open_npz(make_npz(images=ARRAYS["x"], labels=ARRAYS["half"]), ["imags"])
    with pytest.raises(DataError, match="cannot read this file"):
        open_npz(tmp_path, ["x"])


def test_pickled_objects_are_not_read(make_npz: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"'x': holds pickled Python objects.*expected numbers"):
        open_npz(make_npz(x=np.array([{}, "a"], dtype=object)), ["x"])


@pytest.mark.parametrize("rows", [49, 51, 2**60])
def test_a_shape_that_does_not_fit_the_member(tmp_path: Path, rows: int) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (rows, 3)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", stream.getvalue() + bytes(50 * 3 * 4))
    with pytest.raises(DataError, match=rf"float32 of shape \({rows}, 3\) takes .* bytes, found 600"):
        open_npz(tmp_path / "x.npz", ["x"])


@pytest.mark.parametrize("compressed", [False, True])
def test_a_changed_byte_is_found_or_harmless(make_npz: Callable[..., Path], compressed: bool) -> None:
    path = make_npz(compressed=compressed, x=ARRAYS["x"])
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    found = 0
    for place in {*range(100), *rng.integers(0, len(whole), 150).tolist(), *range(len(whole) - 100, len(whole))}:
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            values = open_npz(path, ["x"])["x"][np.arange(50)]
        except DataError:
            found += 1
        else:
            np.testing.assert_array_equal(values, ARRAYS["x"])
    assert found > 150


def test_a_compression_that_numpy_does_not_use(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", b"")
    with pytest.raises(DataError, match="compressed by method 14"):
        open_npz(tmp_path / "x.npz", ["x"])


def test_a_file_cut_short_while_in_use(make_npz: Callable[..., Path]) -> None:
    path = make_npz(x=ARRAYS["x"])
    opened = open_npz(path, ["x"])["x"]
    with path.open("r+b") as file:
        file.truncate(600)
    opened[np.arange(3)]
    with pytest.raises(DataError, match="has become shorter while it was in use"):
        opened[np.arange(50)]


def test_no_room_to_unpack(make_npz: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_npz(compressed=True, x=ARRAYS["x"])
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(
        OutputError, match=r"/nowhere: cannot write temporary files here: .*; free some space or set TMPDIR"
    ):
        open_npz(path, ["x"])


@pytest.mark.parametrize("name", ["", "logits"])
def test_a_source_needs_a_name_for_the_models_input(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "d.npz", **{name: np.ones((4, 3), np.float32), "labels": np.arange(4)})
    with pytest.raises(DataError, match=f"the array of samples is called '{name}'.*call it something else"):
        open_npz_source(tmp_path / "d.npz")
