"""The IDX files of MNIST and its relatives, plain or `.gz` (format: http://yann.lecun.com/exdb/mnist/)."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from edgekd.artifact import canonical_json
from edgekd.data.array_file import ArrayFile, hashed, in_memory_if_small, pieces, spool
from edgekd.data.labels import check_labels, numbered_classes
from edgekd.data.sources import ArraySource
from edgekd.errors import DataError, reading
from edgekd.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_UNSIGNED_BYTES = 0x08


def open_idx(folder: Path, *, classes: tuple[str, ...] = (), cache_mb: int = 0) -> ArraySource:
    """Open the four files `train-` and `t10k-`, `images-idx3-ubyte` and `labels-idx1-ubyte`.

    Args:
        folder: Where they lie, plain or `.gz`.
        classes: Names of the classes; their numbers by default.
        cache_mb: Images are held in memory if all of them fit into so many megabytes, else read when needed.

    Returns:
        Gray images, uint8 of shape (height, width, 1): the training files' samples, then the predefined test's.

    Raises:
        DataError: a file is missing, damaged or too short, or files do not fit each other.
    """
    images, labels = [], []
    for part in ("train", "t10k"):
        pictures = _open(_find(folder, f"{part}-images-idx3-ubyte"), axes=3)
        answers = _open(_find(folder, f"{part}-labels-idx1-ubyte"), axes=1)
        if len(pictures) != len(answers):
            raise DataError(
                f"{pictures.where}: {counted(len(pictures), 'image')}, but {answers.where} has "
                f"{counted(len(answers), 'label')}; the two files do not belong together"
            )
        images.append(pictures)
        known = len(classes) or None
        labels.append(check_labels(answers[np.arange(len(answers))], where=answers.where, classes=known))
    train, test = images
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{folder}: training images are {train.shape[1]}x{train.shape[2]}, test images "
            f"{test.shape[1]}x{test.shape[2]}; expected one size"
        )
    joined = np.concatenate(labels)
    return ArraySource(
        name=str(folder),
        parts=in_memory_if_small(images, cache_mb),
        sample_shape=(*train.shape[1:], 1),
        labels=joined,
        classes=classes or numbered_classes(joined),
        predefined_test=np.arange(len(joined)) >= len(train),
        content=hashlib.sha256(canonical_json([[list(part.shape), part.sha256] for part in images])).hexdigest(),
    )


def _find(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected the four IDX files in it")
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise DataError(f"{folder}: no {name} or {name}.gz; expected the four IDX files of MNIST's kind")


def _open(path: Path, *, axes: int) -> ArrayFile:
    """Read through a file of unsigned bytes with so many axes; its values stay in it, or in an unpacked copy."""
    digest = hashlib.sha256()
    packed = path.suffix == ".gz"
    with reading(path, DataError), _damage(path), path.open("rb") as raw:
        stream: BinaryIO = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
        shape = _read_header(stream, path, axes)
        values = hashed(_values(stream, path, shape), digest)
        if packed:
            file, offset = spool(values), 0
        else:
            for _ in values:
                pass
            file, offset = path.open("rb", buffering=0), 4 + 4 * axes
    return ArrayFile(
        file,
        where=str(path),
        offset=offset,
        dtype=np.dtype(np.uint8),
        shape=shape,
        sha256=digest.hexdigest(),
    )


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or not a gzip file: {error}; fetch it again") from error


def _read_header(stream: BinaryIO, path: Path, axes: int) -> tuple[int, ...]:
    header = stream.read(4 + 4 * axes)
    expected = bytes([0, 0, _UNSIGNED_BYTES, axes])
    if header[:4] != expected:
        raise DataError(
            f"{path}: not an IDX file of this kind: it begins with {header[:4].hex(' ') or 'nothing'}, expected "
            f"{expected.hex(' ')} (unsigned bytes, number of axes: {axes}); fetch it again"
        )
    if len(header) < 4 + 4 * axes:
        raise DataError(f"{path}: truncated: it ends within its header; fetch it again")
    shape = struct.unpack(f">{axes}I", header[4:])
    if not all(shape):
        raise DataError(f"{path}: no samples: its header says shape {shape}")
    return shape


def _values(stream: BinaryIO, path: Path, shape: tuple[int, ...]) -> Iterator[bytes]:
    """Yield a file's values in pieces; just as many as its header says, or a `DataError`."""
    expected, found = math.prod(shape), 0
    for piece in pieces(stream):
        found += len(piece)
        if found > expected:
            raise DataError(
                f"{path}: goes on after the {expected:,} values of shape {shape} that its header says; fetch it again"
            )
        yield piece
    if found < expected:
        raise DataError(
            f"{path}: truncated: its header says shape {shape}, {expected:,} values, found {found:,}; fetch it again"
        )
