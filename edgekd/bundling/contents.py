"""The files of a bundle: gathered in memory, then written into a new folder, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.bundling.manifest import File, Tensor, require_plain
from edgekd.errors import OutputError, writing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Contents:
    """What a manifest lists.

    Attributes:
        files: Their bytes by path in the bundle.
    """

    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, path: str, content: bytes) -> str:
        """Add a file, unless one of this content is there, and return its path."""
        known = next((name for name, other in self.files.items() if other == content), None)
        return self.put(path, content) if known is None else known

    def put(self, path: str, content: bytes) -> str:
        """Add a file, whatever the others hold, and return its path."""
        require_plain(path)
        if path in self.files:
            raise AssertionError(f"two files would be {path}")
        self.files[path] = content
        return path

    def tensor(self, path: str, name: str, values: NDArray[Any]) -> Tensor:
        """Add the values of a tensor."""
        little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        place = self.add(path, little.tobytes())
        return Tensor(name=name, dtype=values.dtype.name, shape=list(values.shape), path=place)

    def listed(self) -> list[File]:
        """Return the files as the manifest lists them."""
        return [
            File(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for path, content in sorted(self.files.items())
        ]


def require_new(folder: Path) -> None:
    """Refuse a place in which something is already: an app's developers may have changed a bundle's packages.

    Raises:
        OutputError: something is there, or nothing can be written there.
    """
    with writing(folder):
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise OutputError(f"{folder}: something is there already; name a new folder, or remove that one first")
        above = next(place for place in (folder, *folder.parents) if place.exists())
        tempfile.TemporaryFile(dir=above).close()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder that is not there yet, or empty.

    Raises:
        OutputError: it cannot be written; nothing of it is left.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            for path, content in files.items():
                place = temporary / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            temporary.chmod(0o755)
            temporary.replace(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
