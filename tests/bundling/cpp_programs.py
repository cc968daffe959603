"""Programs of a bundle's C++ package: where onnxruntime's C header and libraries are from, and how CMake builds."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime
import pytest

from tests.bundling.npm_packages import fetched_folder

if TYPE_CHECKING:
    from collections.abc import Callable

HEADERS = "com.github.asus4.onnxruntime@0.4.9"  # onnxruntime 1.29; no package of Debian's or pip's has them
_ARCHIVE = "package/Plugins/Android/onnxruntime.aar"
SOURCES = Path(__file__).parent / "cpp"


def onnxruntime_headers(needed: Callable[[str, Path], Path]) -> Path:
    """Return the folder of `onnxruntime_c_api.h`, fetched with npm once; skip or fail where that is impossible."""
    return needed("cpp", onnxruntime_archive(needed, "cpp") / "headers")


def onnxruntime_archive(needed: Callable[[str, Path], Path], what: str) -> Path:
    """Return the unpacked archive of onnxruntime for Android, fetched once; skip or fail as `what` is required."""
    npm = needed(what, Path(shutil.which("npm") or "/usr/bin/npm"))
    folder = fetched_folder() / f"archive-{HEADERS}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "archive").is_dir():
            ran = subprocess.run([npm, "pack", HEADERS], cwd=folder, capture_output=True, text=True, check=False)
            if ran.returncode == 0:
                _unpack(folder)
            elif what not in os.environ.get("EDGEKD_REQUIRE", "").split(","):
                pytest.skip(f"npm fetches nothing here: {ran.stderr.strip().splitlines()[-1]}")
    return needed(what, folder / "archive")


def _unpack(folder: Path) -> None:
    (packed,) = folder.glob("*.tgz")
    with tarfile.open(packed) as outer:
        outer.extract(_ARCHIVE, folder, filter="data")
    partial = folder / "partial"
    with zipfile.ZipFile(folder / _ARCHIVE) as inner:
        inner.extractall(partial)
    partial.rename(folder / "archive")
    shutil.rmtree(folder / "package")
    packed.unlink()


def library() -> Path:
    """Return this machine's onnxruntime, that of Python's wheel."""
    return library_in(Path(onnxruntime.__file__).parent)


def library_in(package: Path) -> Path:
    """Return the library of an unpacked wheel."""
    (found,) = (package / "capi").glob("libonnxruntime.so.*")
    return found


def build(source: Path, folder: Path, headers: Path, *targets: str, flags: str = "", **settings: str | Path) -> Path:
    """Build with CMake, every warning an error; return the build's folder."""
    given = {
        "ONNXRUNTIME_INCLUDE_DIR": headers,
        "CMAKE_CXX_FLAGS": f"-Wall -Wextra -Werror {flags}",
        **settings,
    }
    command("cmake", "-S", source, "-B", folder, *(f"-D{key}={value}" for key, value in given.items()))
    command("cmake", "--build", folder, "--parallel", "2", *(("--target", *targets) if targets else ()))
    return folder


def command(*arguments: str | Path) -> None:
    """Run a command that has to succeed and to say nothing on the standard error stream."""
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, ""), f"{arguments}: {ran.stdout}{ran.stderr}"


def run(
    *arguments: str | Path, given: bytes = b"", unset: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a program."""
    environment = {key: value for key, value in os.environ.items() if key not in unset} | variables
    return subprocess.run(arguments, input=given, capture_output=True, check=False, env=environment)


def lines(ran: subprocess.CompletedProcess[bytes]) -> list[str]:
    """Return what a program printed, which said nothing on the standard error stream."""
    assert ran.stderr.decode(errors="replace") == ""
    return ran.stdout.decode().splitlines()


def ask(probes: Path, mode: str, *arguments: str | Path, given: bytes = b"") -> list[str]:
    """Return what a single part of the package answers."""
    ran = run(probes / "probe", mode, *arguments, given=given)
    assert ran.returncode == 0, ran.stderr.decode()
    return lines(ran)
