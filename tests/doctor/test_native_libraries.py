"""Whether native libraries can be loaded where memory pages have 16 KB: ELF files written by hand, and the installed one."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime
import pytest

from edgekd.cli import main
from edgekd.doctor import LibraryReport, diagnose, examine_libraries
from edgekd.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

PT_LOAD, PT_DYNAMIC = 1, 2
AARCH64, ARM, X86_64 = 183, 40, 62


def elf(*alignments: int, machine: int = AARCH64, bits: int = 64, order: str = "<") -> bytes:
    """Return an ELF header, a dynamic segment aligned to 8 bytes, and loaded segments aligned as asked."""
    wide = bits == 64
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    header_size, size = (64, 56) if wide else (52, 32)
    word = "Q" if wide else "I"
    header = ident + struct.pack(
        f"{order}HHI{word * 3}IHHHHHH",
        *(3, machine, 1, 0, header_size, 0, 0, header_size, size, 1 + len(alignments), 0, 0, 0),
    )
    segments = [(PT_DYNAMIC, 8), *((PT_LOAD, alignment) for alignment in alignments)]
    wide_form = (struct.pack(f"{order}II6Q", kind, 4, 0, 0, 0, 0, 0, alignment) for kind, alignment in segments)
    narrow_form = (struct.pack(f"{order}8I", kind, 0, 0, 0, 0, 0, 4, alignment) for kind, alignment in segments)
    return header + b"".join(wide_form if wide else narrow_form)


def look(content: bytes, folder: Path) -> LibraryReport:
    path = folder / "lib.so"
    path.write_bytes(content)
    (report,) = examine_libraries(path)
    return report


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [32, 64])
def test_the_smallest_alignment_of_what_is_loaded_counts(bits: int, order: str, tmp_path: Path) -> None:
    report = look(elf(0x10000, 0x4000, bits=bits, order=order), tmp_path)
    assert (report.machine, report.bits, report.alignment, report.findings) == ("aarch64", bits, 0x4000, ())


def test_pages_of_16_kb_are_for_64_bits(tmp_path: Path) -> None:
    report = look(elf(0x4000, 0x1000), tmp_path)
    assert report.alignment == 0x1000
    (finding,) = report.findings
    assert (finding.kind, finding.severity) == ("page-size", "warning")
    assert finding.message == "aligned to 4,096 bytes: Android devices with pages of 16 KB cannot load it"
    assert look(elf(0x1000, machine=ARM, bits=32), tmp_path).findings == ()


def test_the_installed_library_is_read() -> None:
    found = examine_libraries(Path(onnxruntime.__file__).parent / "capi")
    assert found
    for report in found:
        assert report.bits == 64
        assert report.alignment is not None
        assert report.alignment & (report.alignment - 1) == 0
        assert report.alignment >= 0x1000


def test_libraries_of_an_archive_and_of_a_folder(tmp_path: Path) -> None:
    good, bad = elf(0x4000), elf(0x1000, machine=X86_64)
    (tmp_path / "app" / "lib").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "app" / "onnxruntime.aar", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("jni/x86_64/libonnxruntime.so", bad)
        archive.writestr("jni/arm64-v8a/libonnxruntime.so", good)
        archive.writestr("classes.jar", b"")
    (tmp_path / "app" / "lib" / "libmine.so.1.32.0").write_bytes(good)
    (tmp_path / "app" / "lib" / "notes.social").write_text("no library")
    found = examine_libraries(tmp_path / "app")
    assert [(Path(one.path).name, one.member, one.machine, len(one.findings)) for one in found] == [
        ("onnxruntime.aar", "jni/arm64-v8a/libonnxruntime.so", "aarch64", 0),
        ("onnxruntime.aar", "jni/x86_64/libonnxruntime.so", "x86_64", 1),
        ("libmine.so.1.32.0", None, "aarch64", 0),
    ]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content[:20], "not a whole ELF file"),
        (lambda content: content[:-1], "not a whole ELF file: its program headers are cut off"),
        (lambda content: content[:4] + b"\7" + content[5:], "not a whole ELF file: its header is none"),
        (lambda content: content[:32] + b"\xff" * 8 + content[40:], "not a whole ELF file"),
        (lambda content: content[:54] + b"\0\0" + content[56:], "not a whole ELF file"),
        (lambda content: content[:56] + b"\1\0" + content[58:], "it has no segment to load"),
        (lambda content: content[:4] + b"\1" + content[5:], ""),
    ],
)
def test_damaged_libraries_are_errors(spoil: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    report = look(spoil(elf(0x4000)), tmp_path)
    (finding,) = report.findings
    assert (finding.kind, finding.severity, report.alignment) == ("load", "error", None)
    assert message in finding.message


def test_damaged_archives_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.aar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("jni/arm64-v8a/lib.so", elf(0x4000) + bytes(5000))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    (report,) = examine_libraries(path)
    assert report.findings[0].message.startswith("not a whole archive: ")
    path.write_bytes(content.replace(bytes(5000), bytes(4999) + b"x"))
    (report,) = examine_libraries(path)
    assert report.alignment == 0x4000  # its headers are whole; what is behind them is not read
    with pytest.raises(SystemExit) as end:
        main(["doctor", str(path), str(tmp_path / "missing.so")])
    assert end.value.code == 3
    assert f"{tmp_path / 'missing.so'}: no such" in capsys.readouterr().err


def test_a_folder_without_libraries_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(ModelError, match="no native library in it"):
        diagnose([tmp_path])


def test_the_command_says_a_line_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lib.so").write_bytes(elf(0x1000))
    with pytest.raises(SystemExit) as end:
        main(["doctor", str(tmp_path / "lib.so"), "--json", str(tmp_path / "d.json")])
    assert not end.value.code
    said = capsys.readouterr().out
    assert f"{tmp_path / 'lib.so'}: aarch64, 64 bits, segments aligned to 4,096 bytes" in said
    assert (
        "  warning: aligned to 4,096 bytes: Android devices with pages of 16 KB cannot load it. For Android" in said
    )
    assert "container limits" not in said
    (library,) = json.loads((tmp_path / "d.json").read_bytes())["libraries"]
    assert library["alignment"] == 0x1000
    assert library["findings"][0]["kind"] == "page-size"
