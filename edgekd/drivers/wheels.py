"""Wheels of numpy and onnxruntime for another machine, fetched here with this Python's pip."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from edgekd.drivers.cache import cached
from edgekd.errors import DeviceError

if TYPE_CHECKING:
    from pathlib import Path

_OLDEST_GLIBC_MINOR = 17  # manylinux2014, PEP 599
_MACHINES = ("x86_64", "aarch64")


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """The Python that wheels are for: its version, its machine and its C library's minor version.

    Attributes:
        python: Major and minor version, such as `(3, 11)`.
        machine: As `platform.machine()` says it, such as `"aarch64"`.
        glibc_minor: The 36 of glibc 2.36; None for another C library.
    """

    python: tuple[int, int]
    machine: str
    glibc_minor: int | None

    def __str__(self) -> str:
        library = "another C library than glibc" if self.glibc_minor is None else f"glibc 2.{self.glibc_minor}"
        return f"Python {self.python[0]}.{self.python[1]} on {self.machine} with {library}"


def fetch_wheels(interpreter: Interpreter) -> list[Path]:
    """Return wheels of numpy and onnxruntime, from the cache or fetched with pip.

    onnxruntime is this machine's own version where there is a wheel of it, so that answers compare; else the newest.

    Raises:
        DeviceError: there are none for this interpreter, or pip failed.
        OutputError: the cache cannot be written.
    """
    if interpreter.machine not in _MACHINES or interpreter.glibc_minor is None:
        raise DeviceError(
            f"there are no wheels of onnxruntime for {interpreter}; a board needs a 64-bit system with glibc, or "
            "numpy and onnxruntime of its own"
        )
    own = version("onnxruntime")
    major, minor = interpreter.python
    name = f"wheels/cp{major}{minor}-glibc2.{interpreter.glibc_minor}-{interpreter.machine}-onnxruntime-{own}"

    def make(folder: Path) -> None:
        said = _download(interpreter, [f"onnxruntime=={own}"], folder)
        if said is not None:
            said = _download(interpreter, ["onnxruntime"], folder)
        if said is not None:
            raise DeviceError(f"no wheels of numpy and onnxruntime for {interpreter}; pip said: {said}")

    return sorted(cached(name, make).glob("*.whl"))


def unpack(wheels: list[Path], folder: Path) -> None:
    """Unpack wheels into a folder for PYTHONPATH."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def _download(interpreter: Interpreter, requirements: list[str], folder: Path) -> str | None:
    """Download wheels; return None, or the end of what pip said when it failed."""
    newest = interpreter.glibc_minor or _OLDEST_GLIBC_MINOR
    platforms = [f"manylinux_2_{minor}_{interpreter.machine}" for minor in range(newest, _OLDEST_GLIBC_MINOR - 1, -1)]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"),
        *("--dest", str(folder), "--no-deps", "--only-binary", ":all:"),
        *("--implementation", "cp", "--python-version", ".".join(map(str, interpreter.python))),
        *(f"--platform={name}" for name in (*platforms, f"manylinux2014_{interpreter.machine}")),
        *("numpy", *requirements),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)  # noqa: S603
    if ran.returncode == 0:
        return None
    return " ".join(ran.stderr.split())[-500:] or f"exit status {ran.returncode}"
