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
import re
import tempfile
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import edgekd
from edgekd.errors import DataError, OutputError, UsageError, reading, writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edgekd.errors import EdgekdError

SCHEMA = "edgekd.card/1"
_TEMPORARY = ".partial-"
_OPEN_FILES = ("/dev/stdout", "/dev/stderr", "/dev/fd", "/proc/self/fd")
_LEFTOVER = re.compile(re.escape(_TEMPORARY) + r"[0-9a-f]{32}")
# of a run: nothing else in it is ours
_WRITTEN_FOLDERS = (".", "checkpoints", "answers", "answers-features", "generations", "search", "seeds")


def sha256_file(path: Path, kind: type[EdgekdError] = UsageError) -> str:
    """Return the hex sha256 of a file, read in pieces; an unreadable one raises `kind`."""
    with reading(path, kind), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: object) -> bytes:
    """Return `value` as JSON with sorted keys and no NaN: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_files(contents: Mapping[Path, bytes | memoryview], option: str = "-o") -> None:
    """Write files under temporary names beside their places, then move all of them there, in order.

    Whatever stood there stays intact until every new file is whole and on the disk. A link stays one: the file it
    names is written. Pipes and devices, such as /dev/stdout, are written to and not replaced.

    Args:
        contents: What to write, by path.
        option: What chooses another place on the command line, for messages.

    Raises:
        OutputError: a place cannot be written, or the disk is full; nothing half-written is left.
    """
    elsewhere = f"choose another place with {option}"
    temporaries: dict[Path, tuple[Path, Path]] = {}
    try:
        for path, data in contents.items():
            with writing(path, elsewhere):
                require_file_place(path)
                if is_stream(path):
                    continue
                place = Path(os.path.realpath(path))
                place.parent.mkdir(parents=True, exist_ok=True)
                temporary = place.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
                temporaries[path] = temporary, place
                with temporary.open("wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
        for path, data in contents.items():
            with writing(path, elsewhere):
                if path in temporaries:
                    temporary, place = temporaries[path]
                    temporary.replace(place)
                else:
                    with _open_stream(path) as stream:
                        stream.write(data)
    except BaseException:
        for temporary, _ in temporaries.values():
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise


def require_writable(path: Path, option: str = "-o") -> None:
    """Find out whether a file can be written, before the work that makes it; see `write_files`.

    Raises:
        OutputError: it cannot.
    """
    with writing(path, f"choose another place with {option}"):
        require_file_place(path)
        if not is_stream(path):
            folder = Path(os.path.realpath(path)).parent
            while not folder.exists():
                folder = folder.parent
            tempfile.TemporaryFile(dir=folder).close()


def require_file_place(path: Path) -> None:
    """Refuse a path that is a folder or names no file.

    Raises:
        OutputError: it does.
        OSError: the system cannot tell.
    """
    if not path.name or (path.is_dir() and not is_stream(path)):
        raise OutputError(f"{path}: this is a folder; name a file in it")


def is_stream(path: Path) -> bool:
    """Return whether a path is written to as a stream: a pipe, a device, an open file of this process."""
    if any(path.is_relative_to(place) for place in _OPEN_FILES):
        return path.exists()
    return path.exists() and not path.is_file() and not path.is_dir()


def _open_stream(path: Path) -> BinaryIO:
    """Open a stream for writing. A file that this process has open is written on from where it stands."""
    number = {"/dev/stdout": 1, "/dev/stderr": 2}.get(str(path))
    if path.parent in (Path("/dev/fd"), Path("/proc/self/fd")) and path.name.isdecimal():
        number = int(path.name)
    return path.open("wb") if number is None else os.fdopen(os.dup(number), "wb")


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write one file whole or not at all; see `write_files`."""
    write_files({path: data})


def write_json(path: Path, value: Mapping[str, Any], option: str = "-o") -> None:
    """Write `value` as indented JSON; a NaN in it is a fault of the caller and raises `ValueError`."""
    write_files({path: indented_json(value)}, option)


def indented_json(value: Mapping[str, Any]) -> bytes:
    """Return `value` as JSON for people; a NaN in it raises `ValueError`."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path, schema: str, what: str) -> dict[str, Any]:
    """Return a JSON object of a schema.

    Args:
        path: The file.
        schema: What its key `schema` has to be.
        what: Names such a file in messages.

    Raises:
        DataError: it cannot be read, is no JSON of finite numbers, or of another schema.
    """
    with reading(path, DataError, what):
        data = path.read_bytes()
    try:
        content = json.loads(data, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file of finite numbers: {error}") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        raise DataError(f"{path}: expected a {what} (schema {schema!r}), found schema {found!r}")
    return dict(content)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"found {text}")
    return value


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
    """Return the installed versions of packages, with edgekd's and Python's (major.minor) own.

    A package from a distribution of another name is told apart: `"1.20.0 (onnxruntime-gpu)"`.
    """
    found = {name: _version(name) for name in names} | {"edgekd": edgekd.__version__}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **dict(sorted(found.items()))}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        others = sorted(set(packages_distributions().get(name, ())))
        return ", ".join(f"{version(other)} ({other})" for other in others) or "unknown"


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
    return path.parent / f"{path.name}.card.json"


def card_model(path: Path) -> tuple[str | None, dict[str, Any]]:
    """Return the model and its arguments that a card of weights names; None and nothing if there is no such card."""
    try:
        settings = json.loads(path.read_bytes())["settings"]
        model, arguments = settings["model"], settings.get("arguments", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, {}
    return (model, arguments) if isinstance(model, str) and isinstance(arguments, dict) else (None, {})


def find(path: Path, origin: Origin) -> Artifact | None:
    """Return the artifact at `path` if it is whole and made from just this origin, else None."""
    try:
        card = json.loads(card_path(path).read_bytes())
        seal = card.pop("seal")
        if card["schema"] != SCHEMA or card["key"] != origin.key or seal != seal_of(card):
            return None
        if card["sha256"] != sha256_file(path):
            return None
        return Artifact(
            path=path,
            sha256=card["sha256"],
            stage=card["stage"],
            metrics=card["metrics"],
            extra=card["extra"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError):
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
    write_files({path: data, card_path(path): indented_json({**card, "seal": seal_of(card)})})
    return artifact


def seal_of(content: Mapping[str, Any]) -> str:
    """Return the sha256 over the rest of a card or header: one that was damaged or edited counts as not made."""
    as_read = json.loads(canonical_json(content))  # keys that are no text come back as text
    return hashlib.sha256(canonical_json(as_read)).hexdigest()


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
        for place in _WRITTEN_FOLDERS:
            _clear_leftovers(folder / place)
        yield folder


def _clear_leftovers(folder: Path) -> None:
    """Delete the temporary files that `write_files` left in a folder: regular files of just that form of name."""
    with writing(folder):
        for path in list(folder.iterdir()) if folder.is_dir() else []:
            if _LEFTOVER.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                path.unlink()


def _lock(descriptor: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two runs in one folder are not told apart there
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"{folder}: another edgekd run is working in this folder; choose another with -o") from error
    except OSError as error:  # a file system without locks
        raise OutputError(
            f"{folder}: this folder cannot be locked: {error.strerror or error}; choose another place with -o"
        ) from error
