"""Native libraries: whether Android devices with memory pages of 16 KB can load them.

From Android 15 on, 64-bit devices may have pages of 16 KB. Their linker refuses a library with a segment that is
aligned to less (developer.android.com, "Support 16 KB page sizes"). The alignment is `p_align` of every `PT_LOAD` in
the program headers (System V Application Binary Interface, Object Files).
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from edgekd.doctor.finding import Finding
from edgekd.errors import ModelError, reading

if TYPE_CHECKING:
    from collections.abc import Iterator

ANDROID_PAGE: Final = 16 * 1024
ELF, ZIP = b"\x7fELF", b"PK\x03\x04"
_PT_LOAD: Final = 1
_MACHINES: Final = {3: "x86", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv"}
_LIBRARY: Final = re.compile(r"\.so(\.\d+)*$")
_ARCHIVES: Final = (".aar", ".apk", ".aab", ".jar", ".zip")
_UNREADABLE: Final = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError)


@dataclass(frozen=True, kw_only=True)
class LibraryReport:
    """A native library.

    Attributes:
        path: The file, or the archive that it is in.
        member: Its name in the archive; None if it is a file of its own.
        machine: What it is for, such as `"aarch64"`; None if that is not known.
        bits: 64 or 32; None if it is no whole ELF file.
        alignment: Of its segments in bytes, the smallest; None if there are none.
        findings: What there is to say of it.
    """

    path: str
    member: str | None
    machine: str | None
    bits: int | None
    alignment: int | None
    findings: tuple[Finding, ...]

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path if self.member is None else f"{self.path}: {self.member}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "path": self.path,
            "member": self.member,
            "machine": self.machine,
            "bits": self.bits,
            "alignment": self.alignment,
            "findings": [finding.to_json() for finding in self.findings],
        }


def holds_libraries(path: Path) -> bool:
    """Return whether a path is a folder, an archive or a native library, going by how the file begins."""
    if path.is_dir():
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(4) in (ELF, ZIP)
    except OSError:
        return False


def examine_libraries(path: Path) -> tuple[LibraryReport, ...]:
    """Return what the native libraries at a path are: a library, an archive (AAR, APK) or a folder, in their order.

    Raises:
        ModelError: it cannot be read, or there is no library in it.
    """
    with reading(path, ModelError):
        found = tuple(_reports(path))
    if not found:
        raise ModelError(f"{path}: no native library in it (.so, or .aar, .apk with some); name a model or a library")
    return found


def _reports(path: Path) -> Iterator[LibraryReport]:
    if not path.is_dir():
        yield from _file_reports(path)
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            place = Path(folder) / name
            if place.is_file() and (_LIBRARY.search(name) or place.suffix in _ARCHIVES):
                yield from _file_reports(place)


def _file_reports(path: Path) -> Iterator[LibraryReport]:
    with path.open("rb") as stream:
        start = stream.read(4)
        stream.seek(0)
        if start != ZIP:
            yield _examine(stream, str(path), None)
            return
        try:
            with zipfile.ZipFile(stream) as archive:
                for member in sorted(archive.namelist()):
                    if _LIBRARY.search(member):
                        yield _examine_member(archive, str(path), member)
        except _UNREADABLE as error:
            yield _broken(str(path), None, f"not a whole archive: {error}")


def _examine_member(archive: zipfile.ZipFile, path: str, member: str) -> LibraryReport:
    try:
        with archive.open(member) as stream:
            return _examine(stream, path, member)
    except _UNREADABLE as error:
        return _broken(path, member, f"cannot be unpacked: {error}")


def _examine(stream: IO[bytes], path: str, member: str | None) -> LibraryReport:
    try:
        machine, bits, alignments = _segments(stream)
    except (struct.error, ValueError, OverflowError) as error:
        return _broken(path, member, f"not a whole ELF file: {error}")
    if not alignments:
        return _broken(path, member, "it has no segment to load")
    return LibraryReport(
        path=path,
        member=member,
        machine=_MACHINES.get(machine),
        bits=bits,
        alignment=min(alignments),
        findings=tuple(_page_findings(bits, min(alignments))),
    )


def _segments(stream: IO[bytes]) -> tuple[int, int, list[int]]:
    """Return an ELF file's machine, its word in bits, and the alignment of each segment that is loaded.

    Raises:
        ValueError, struct.error, OverflowError: it is none, or not whole.
    """
    header = stream.read(64)
    if header[:4] != ELF or header[4:5] not in (b"\1", b"\2") or header[5:6] not in (b"\1", b"\2"):
        raise ValueError("its header is none")
    order = "<" if header[5] == 1 else ">"
    wide = header[4] == 2
    # e_machine; e_phoff; e_phentsize, e_phnum
    (machine,) = struct.unpack_from(f"{order}H", header, 18)
    (offset,) = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", header, 32 if wide else 28)
    size, count = struct.unpack_from(f"{order}2H", header, 54 if wide else 42)
    stream.seek(offset)
    table = stream.read(size * count)
    if len(table) < size * count:
        raise ValueError("its program headers are cut off")
    alignments = []
    for start in range(0, size * count, size):
        (kind,) = struct.unpack_from(f"{order}I", table, start)
        (alignment,) = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", table, start + (48 if wide else 28))
        if kind == _PT_LOAD:
            alignments.append(alignment)
    return machine, 64 if wide else 32, alignments


def _page_findings(bits: int, alignment: int) -> Iterator[Finding]:
    if bits == 64 and alignment < ANDROID_PAGE:
        yield Finding(
            kind="page-size",
            severity="warning",
            message=f"aligned to {alignment:,} bytes: Android devices with pages of 16 KB cannot load it",
            advice="For Android take a build with -Wl,-z,max-page-size=16384, the default from NDK r28 on",
        )


def _broken(path: str, member: str | None, message: str) -> LibraryReport:
    found = Finding(kind="load", severity="error", message=message)
    return LibraryReport(path=path, member=member, machine=None, bits=None, alignment=None, findings=(found,))
