"""The packages of the platforms, one folder each: plain sources that read all they need from the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekd.errors import UsageError
from edgekd.text import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

# By platform: the folders beside this file that make its package.
PLATFORMS: Final[Mapping[str, tuple[str, ...]]] = {
    "python": ("python",),
    "node": ("javascript", "node"),
    "web": ("javascript", "web"),
    "cpp": ("cpp",),
    "android": ("android",),
    "ios": ("ios",),
}
_LEFT: Final = {"__pycache__", "node_modules"}


def require_platform(name: str) -> None:
    """Refuse a platform for which there is no package.

    Raises:
        UsageError: names those there are.
    """
    if name not in PLATFORMS:
        raise UsageError(f"unknown platform {name!r}{nearest(name, PLATFORMS)}; known: {', '.join(PLATFORMS)}")


def find_platforms(names: str) -> tuple[str, ...]:
    """Return the platforms of a list with commas, each once, in the order of `PLATFORMS`.

    Raises:
        UsageError: there is no such platform.
    """
    asked = [name.strip() for name in names.split(",") if name.strip()]
    for name in asked:
        require_platform(name)
    return tuple(name for name in PLATFORMS if name in asked)


def package_files(platform: str) -> dict[str, bytes]:
    """Return the files of a platform's package by their path in it."""
    found = {}
    for name in PLATFORMS[platform]:
        folder = Path(__file__).parent / "platforms" / name
        for path in sorted(folder.rglob("*")):
            inner = path.relative_to(folder)
            if path.is_file() and not _LEFT & set(inner.parts):
                found[inner.as_posix()] = path.read_bytes()
    return found
