"""Artifacts: a file and its card, written whole or not at all, and reused while nothing they depend on changed.

A card is JSON beside its file (`student.onnx.card.json`): the file's sha256, the stage that made it, the hashes
of its parents, the settings that took effect, metrics and library versions. It holds no clock time and no path
of this machine, so that an undisturbed and a resumed run give byte-identical files and cards.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from edgekd.errors import OutputError, UsageError, reading, writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from edgekd.errors import EdgekdError

SCHEMA = "edgekd.card/1"
_TEMPORARY = ".partial-"


def sha256_file(path: Path, kind: type[EdgekdError] = UsageError) -> str:
    """Return the hex sha256 of a file, read in pieces; an unreadable one raises `kind`."""
    with reading(path, kind), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: object) -> bytes:
    """Return `value` as JSON with sorted keys and no NaN: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_files(contents: Mapping[Path, bytes | memoryview]) -> None:
    """Write files under temporary names beside their places, then move all of them there, in order.

    Whatever stood there stays intact until every new file is whole and on the disk.

    Raises:
        OutputError: a place cannot be written, or the disk is full; nothing half-written is left.
    """
    for path in contents:
        if path.is_dir() or not path.name:
            raise OutputError(f"{path}: this is a folder; name a file in it")
    temporaries = {path: path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}") for path in contents}
    try:
        for path, data in contents.items():
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with temporaries[path].open("wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
        for path, temporary in temporaries.items():
            with writing(path):
                temporary.replace(path)
    except BaseException:
        for temporary in temporaries.values():
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write one file whole or not at all; see `write_files`."""
    write_files({path: data})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as indented JSON; a NaN in it is a fault of the caller and raises `ValueError`."""
    write_bytes(path, indented_json(value))


def indented_json(value: Mapping[str, Any]) -> bytes:
    """Return `value` as JSON for people; a NaN in it raises `ValueError`."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def rounded(value: float, digits: int = 6) -> float:
    """Return `value` to `digits` significant digits: what a card holds of a measured number.

    Raises:
        ValueError: `value` is NaN or infinite. Such a number never passes for a measurement.
    """
    if not math.isfinite(value):
        raise ValueError(f"a measured number must be finite, got {value}")
    return float(f"{value:.{digits}g}")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A whole file and what is known of how it came to be."""

    path: Path
    sha256: str
    stage: str
    metrics: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)


def library_versions(names: Sequence[str]) -> dict[str, str]:
    """Return the installed versions of `names`, with edgekd's and Python's (major.minor) own."""
    found = {name: version(name) for name in sorted({*names, "edgekd"})}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **found}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """All that an artifact depends on: equal origins give equal bytes.

    Attributes:
        stage: The stage that makes it, such as `"export"`.
        settings: The settings that stage reads, without paths.
        parents: File name and sha256 of each artifact that goes in.
        libraries: Distribution names of the packages whose version matters.
    """

    stage: str
    settings: Mapping[str, Any]
    parents: Mapping[str, str]
    libraries: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Return the part of a card that decides whether a file can be reused."""
        return {
            "stage": self.stage,
            "settings": dict(self.settings),
            "parents": dict(self.parents),
            "versions": library_versions(self.libraries),
        }

    @property
    def key(self) -> str:
        """The sha256 over everything in it."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()


def card_path(path: Path) -> Path:
    """Return where the card of the file at `path` lies."""
    return path.with_name(path.name + ".card.json")


def find(path: Path, origin: Origin) -> Artifact | None:
    """Return the artifact at `path` if it is whole and made from just this origin, else None."""
    try:
        card = json.loads(card_path(path).read_bytes())
        if card["schema"] != SCHEMA or card["key"] != origin.key or card["sha256"] != sha256_file(path):
            return None
        return Artifact(
            path=path,
            sha256=card["sha256"],
            stage=card["stage"],
            metrics=card["metrics"],
            extra=card["extra"],
        )
    except (OSError, ValueError, KeyError, TypeError, UsageError):
        return None  # absent, damaged or of another version: it is made again


def store(
    path: Path,
    data: bytes,
    origin: Origin,
    *,
    metrics: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Artifact:
    """Write a file and its card. The card comes last: a file without one counts as not made.

    Args:
        path: Where the file goes.
        data: Its content.
        origin: What it was made from.
        metrics: Figures of the file itself; finite numbers, text, lists and mappings of such.
        extra: Whatever later stages need of it, such as the input contract.

    Raises:
        OutputError: the place cannot be written.
    """
    artifact = Artifact(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        stage=origin.stage,
        metrics=dict(metrics or {}),
        extra=dict(extra or {}),
    )
    card = {
        "schema": SCHEMA,
        "file": path.name,
        "sha256": artifact.sha256,
        "bytes": len(data),
        "key": origin.key,
        **origin.to_json(),
        "metrics": artifact.metrics,
        "extra": artifact.extra,
    }
    write_files({path: data, card_path(path): indented_json(card)})
    return artifact


@contextmanager
def locked_folder(folder: Path) -> Iterator[Path]:
    """Make `folder`, hold it for this process alone, and clear what a killed run left half-written.

    Raises:
        OutputError: the folder cannot be made or written.
        UsageError: another process works in it.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    with lock:
        _lock(lock.fileno(), folder)
        for leftover in folder.rglob(f"{_TEMPORARY}*"):
            with writing(leftover):
                leftover.unlink()
        yield folder


def _lock(descriptor: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two runs in one folder are not told apart there
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"{folder}: another edgekd run is working in this folder; choose another with -o") from error
