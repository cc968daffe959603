"""`.npz` files, member by member: each wanted array is read through once in pieces, and then by offset.

That one pass checks the member's CRC and hashes its values. A stored member (`np.savez`) is then read where it
lies; a compressed one (`np.savez_compressed`) is unpacked into a temporary file on the way.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zipfile
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgekd.data.array_file import ArrayFile, hashed, pieces, row_blocks, spool
from edgekd.errors import DataError, reading
from edgekd.text import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_MEMBER = ".npy"
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member; then come its name and its extra field


class _Header(NamedTuple):
    """What a member says of itself; its values begin `offset` bytes after its own beginning."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    offset: int


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays in an `.npz` file, in the order of the file.

    Raises:
        DataError: it is missing, damaged, or no zip file.
    """
    with _opened(path) as archive:
        return _names(archive)


def open_npz(path: Path, names: Sequence[str]) -> dict[str, ArrayFile]:
    """Open some arrays of an `.npz` file; the others are not read.

    Args:
        path: The file.
        names: Names of the arrays, without `.npy`.

    Returns:
        The arrays by name; their values stay in the file.

    Raises:
        DataError: the file is missing or damaged; an array is missing, damaged, or holds Python objects.
        OutputError: there is no room to unpack a compressed array.
    """
    with _opened(path) as archive:
        known = _names(archive)
        for name in names:
            if name not in known:
                raise DataError(
                    f"{path}: no array {name!r}{nearest(name, known)}; it holds: {', '.join(known) or 'none'}"
                )
        return {name: _open_member(path, archive, name) for name in names}


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(_MEMBER) for name in archive.namelist() if name.endswith(_MEMBER)]


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with reading(path, DataError):
        with _damage(str(path)):
            archive = zipfile.ZipFile(path)
        with archive:
            yield archive


@contextmanager
def _damage(where: str) -> Iterator[None]:
    """Turn what zipfile, zlib and numpy raise on damaged content into a `DataError`."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{where}: damaged, or not written by numpy.savez: {error or 'it ends too early'}; write it again"
        ) from error


def _open_member(path: Path, archive: zipfile.ZipFile, name: str) -> ArrayFile:
    where = f"{path}: array {name!r}"
    member = archive.getinfo(name + _MEMBER)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{where}: compressed by method {member.compress_type}, which numpy does not use; "
            "write it again with numpy.savez"
        )
    digest = hashlib.sha256()
    with _damage(where), archive.open(member) as stream:
        header = _read_header(stream, where, member.file_size)
        values = hashed(pieces(stream), digest)
        if member.compress_type == zipfile.ZIP_DEFLATED:
            file, offset = spool(values), 0
        else:
            for _ in values:  # the CRC is checked at the end
                pass
            file, offset = path.open("rb", buffering=0), _offset(archive, member) + header.offset
    array = ArrayFile(
        file,
        where=where,
        offset=offset,
        dtype=header.dtype,
        shape=(math.prod(header.shape),) if header.fortran_order else header.shape,
        sha256=digest.hexdigest(),
    )
    return _in_c_order(array, header.shape) if header.fortran_order else array


def _read_header(stream: IO[bytes], where: str, size: int) -> _Header:
    """Read a member's header and compare it with `size`, the length of the member in bytes."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise DataError(f"{where}: .npy format {version[0]}.{version[1]}; expected 1.0 or 2.0")
    if dtype.hasobject:
        raise DataError(
            f"{where}: holds pickled Python objects, which are not read because they can run code; "
            "expected numbers, all samples of one shape"
        )
    values = math.prod(shape) * dtype.itemsize
    if any(extent < 0 for extent in shape) or values != size - stream.tell():
        raise DataError(
            f"{where}: damaged: {dtype} of shape {shape} takes {values:,} bytes, found {size - stream.tell():,}; "
            "write the file again"
        )
    return _Header(shape, fortran_order and len(shape) > 1, dtype, stream.tell())


def _offset(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Return where in the file a member's content begins."""
    assert archive.filename is not None
    with open(archive.filename, "rb") as file:  # noqa: PTH123 - zipfile's own name of it
        file.seek(member.header_offset)
        name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return member.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)


def _in_c_order(flat: ArrayFile, shape: tuple[int, ...]) -> ArrayFile:
    """Rewrite an array in Fortran order, given as its values one after another, into a temporary file."""
    digest = hashlib.sha256()
    columns = np.arange(math.prod(shape[1:]), dtype=np.int64)[:, None] * shape[0]

    def blocks() -> Iterator[bytes]:
        for rows in row_blocks(shape, flat.dtype.itemsize):
            values = flat[(columns + rows).ravel()].reshape(*shape[:0:-1], len(rows))
            yield values.T.tobytes()

    file = spool(hashed(blocks(), digest))
    return ArrayFile(file, where=flat.where, offset=0, dtype=flat.dtype, shape=shape, sha256=digest.hexdigest())
