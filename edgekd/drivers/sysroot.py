"""A Debian arm64 Python with numpy and onnxruntime in a folder, for the emulator.

The packages are fetched with apt from where this system gets its own, under a private state: nothing is installed
here, and no package's scripts run.
"""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import version
from typing import TYPE_CHECKING

from edgekd.drivers.cache import cached
from edgekd.drivers.wheels import Interpreter, fetch_wheels, unpack
from edgekd.errors import DeviceError
from edgekd.temporary import temporary_folder

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("python3", "libstdc++6")
SITE = "edgekd-site"
_PROGRAMS = ("apt-get", "dpkg", "dpkg-deb")  # apt-get calls dpkg
_LAYOUT = 1  # raise it when the content of a sysroot changes


def sysroot() -> Path:
    """Return the sysroot, which is built first if it is not in the cache.

    Raises:
        DeviceError: this system lacks a program, or packages cannot be had.
        OutputError: the cache cannot be written.
    """
    return cached(_name(), _build)


def is_built() -> bool:
    """Return whether the sysroot is in the cache."""
    from edgekd.drivers.cache import cache_folder

    return (cache_folder() / _name()).is_dir()


def python_of(root: Path) -> Path:
    """Return the sysroot's Python, such as `ROOT/usr/bin/python3.11`."""
    found = sorted((root / "usr" / "bin").glob("python3.[0-9]*[0-9]"))
    if not found:
        raise DeviceError(f"{root}: this sysroot has no Python; remove the folder and prepare the device again")
    return found[-1]


def _name() -> str:
    return f"sysroots/debian-arm64-{_LAYOUT}-onnxruntime-{version('onnxruntime')}"


def _build(folder: Path) -> None:
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        raise DeviceError(
            f"the sysroot of an emulated ARM core is made with {', '.join(missing)}, not found here; "
            "it needs Debian or a system derived from it"
        )
    with temporary_folder() as private:
        for package in _download_packages(private):
            _run(["dpkg-deb", "--extract", str(package), str(folder)])
    python = python_of(folder)
    minor = int(python.name.removeprefix("python3."))
    wheels = fetch_wheels(Interpreter(python=(3, minor), machine="aarch64", glibc_minor=_glibc_minor(folder)))
    unpack(wheels, folder / SITE)


def _download_packages(private: Path) -> list[Path]:
    """Download arm64 packages and what they depend on."""
    status = private / "status"
    status.touch()
    archives = private / "cache" / "archives"
    for place in (private / "state" / "lists" / "partial", archives / "partial"):
        place.mkdir(parents=True)
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "",  # apt's own user cannot read a private folder
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Dir::State": str(private / "state"),
        "Dir::State::status": str(status),
        "Dir::Cache": str(private / "cache"),
    }
    apt = ["apt-get", "-q", "-y", *(f"-o{key}={value}" for key, value in settings.items())]
    # A source without arm64 packages, or one that is out of reach, does not matter if another has them.
    updated = subprocess.run([*apt, "update"], capture_output=True, text=True, check=False)  # noqa: S603
    _run([*apt, "install", "--no-install-recommends", "--download-only", *PACKAGES], said_before=updated.stderr)
    return sorted(archives.glob("*.deb"))


def _glibc_minor(folder: Path) -> int:
    """Return the minor version of the sysroot's glibc, from the symbol versions that its libc.so.6 defines."""
    import re

    (library,) = folder.glob("lib/aarch64-linux-gnu/libc.so.6") or folder.glob("usr/lib/aarch64-linux-gnu/libc.so.6")
    return max(int(minor) for minor in re.findall(rb"\0GLIBC_2\.(\d+)\0", library.read_bytes()))


def _run(command: list[str], said_before: str = "") -> None:
    ran = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)  # noqa: S603
    if ran.returncode:
        said = " ".join((said_before + ran.stderr).split())[-500:]
        raise DeviceError(f"{command[0]} failed while the sysroot was made (exit status {ran.returncode}): {said}")
