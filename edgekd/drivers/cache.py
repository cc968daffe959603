"""Files that are made once and kept: folders in the user's cache, there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.errors import writing

if TYPE_CHECKING:
    from collections.abc import Callable

_ELSEWHERE = "name another cache folder in XDG_CACHE_HOME"


def cache_folder() -> Path:
    """Return edgekd's folder in the user's cache: `$XDG_CACHE_HOME/edgekd`, by default `~/.cache/edgekd`.

    A relative XDG_CACHE_HOME counts as none (XDG Base Directory Specification).
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "edgekd"


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder `name` of the cache; if it is not there, `make` fills an empty one that is then moved there.

    Two processes may make the same folder at the same time: the first to finish wins.

    Raises:
        OutputError: the cache cannot be written.
    """
    place = cache_folder() / name
    if place.is_dir():
        return place
    with writing(place, _ELSEWHERE):
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=place.parent))
    try:
        with writing(place, _ELSEWHERE):
            make(temporary)
            temporary.chmod(0o755)
            try:
                temporary.rename(place)
            except OSError:
                if not place.is_dir():
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place
