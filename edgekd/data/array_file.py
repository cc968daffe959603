"""Arrays that stay in their files: rows are read by offset when asked for, so memory holds a batch and no more.

Reads are positioned reads rather than a memory map: pages of a map count as memory of the process, and a file cut
short under a map kills the process where a read gives an error.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import weakref
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import numpy as np

from edgekd.errors import DataError, reading
from edgekd.temporary import temporary_room

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

PIECE_BYTES = 1 << 20


class ArrayFile:
    """An array in C order in an open file: `array[indices]` reads those rows.

    Pickling it for a worker process hands over the open file, not the content.

    Attributes:
        where: Names the array in messages.
        shape: Its shape, first axis samples.
        dtype: Its element type in this machine's byte order.
        sha256: Hex sha256 of its bytes as they lie in the file; empty where nobody has taken it.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        where: str,
        offset: int,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        sha256: str = "",
    ) -> None:
        self._file = file
        weakref.finalize(self, file.close)
        self._offset = offset
        self._stored = dtype
        self.where = where
        self.shape = shape
        self.dtype = dtype.newbyteorder("=")
        self.sha256 = sha256

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the whole array in bytes."""
        return len(self) * self._row_bytes

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self._stored.itemsize

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Read rows, in one go where they follow each other.

        Args:
            indices: int64 of shape (n,), each in [0, len).

        Returns:
            An array of shape (n, *shape[1:]), in memory.

        Raises:
            DataError: the file has become shorter since it was opened, or cannot be read.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"{self.where}: rows {indices.min()} to {indices.max()} of {len(self)}")
        row = self._row_bytes
        content = np.empty(len(indices) * row, dtype=np.uint8)
        view = content.data
        ends = [*(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(indices)]
        start = 0
        for end in ends:
            if end > start:
                self._read(view[start * row : end * row], self._offset + int(indices[start]) * row)
            start = end
        rows = content.view(self._stored).reshape(len(indices), *self.shape[1:])
        return rows.astype(self.dtype, copy=False)

    def _read(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            with reading(self.where, DataError, "array"):
                if sys.platform == "win32":
                    self._file.seek(offset + done)
                    count = self._file.readinto(buffer[done:])  # type: ignore[attr-defined]
                else:
                    count = os.preadv(self._file.fileno(), [buffer[done:]], offset + done)
            if not count:
                raise DataError(
                    f"{self.where}: the file has become shorter while it was in use; "
                    "leave it alone until the run has ended"
                )
            done += count

    def __reduce__(self) -> tuple[Any, ...]:
        if sys.platform == "win32":
            return np.asarray, (self[np.arange(len(self))],)
        from multiprocessing.reduction import DupFd

        return _rebuild, (
            DupFd(self._file.fileno()),
            self.where,
            self._offset,
            self._stored,
            self.shape,
            self.sha256,
        )


def _rebuild(
    descriptor: Any, where: str, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], sha256: str
) -> ArrayFile:
    file = os.fdopen(descriptor.detach(), "rb", buffering=0)
    return ArrayFile(file, where=where, offset=offset, dtype=dtype, shape=shape, sha256=sha256)


def spool(content: Iterable[bytes]) -> BinaryIO:
    """Write `content` into a temporary file without a name, which vanishes with the process.

    Raises:
        OutputError: the folder for temporary files is full or cannot be written.
    """
    with ExitStack() as stack:
        with temporary_room():
            file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        for piece in content:
            left = memoryview(piece)
            while left:
                with temporary_room():
                    left = left[file.write(left) :]
        stack.pop_all()  # it is whole: from here on the ArrayFile closes it
    return file


def pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the rest of a stream in pieces of 1 MB."""
    while piece := stream.read(PIECE_BYTES):
        yield piece


def hashed(content: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    """Pass `content` on and update `digest` with it."""
    for piece in content:
        digest.update(piece)
        yield piece


def row_blocks(shape: Sequence[int], itemsize: int) -> Iterator[NDArray[np.int64]]:
    """Yield the row numbers of an array in order, in blocks of about 1 MB."""
    row = max(1, math.prod(shape[1:]) * itemsize)
    step = max(1, PIECE_BYTES // row)
    for start in range(0, shape[0], step):
        yield np.arange(start, min(start + step, shape[0]), dtype=np.int64)


def in_memory_if_small(arrays: Sequence[ArrayFile], budget_mb: int) -> tuple[NDArray[Any] | ArrayFile, ...]:
    """Read all `arrays` whole if together they fit into so many megabytes (10^6 bytes); else leave them be."""
    if sum(array.nbytes for array in arrays) > budget_mb * 10**6:
        return tuple(arrays)
    return tuple(array[np.arange(len(array))] for array in arrays)
