"""Weights in other files: which a model needs, and whether they are there, whole and inside its folder."""

from __future__ import annotations

import stat
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import onnx

from edgekd.doctor.finding import Finding
from edgekd.errors import ModelError, reading
from edgekd.graph.tensors import tensors
from edgekd.text import bytes_text, counted

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class ExternalFile:
    """A file with weights of a model.

    Attributes:
        location: Where the model says it lies, relative to the model.
        tensors: How many of the model's tensors are in it.
        needed_bytes: How far they reach, as far as the model says.
        bytes: Its size; None if it is not there.
        problem: In words, why it cannot be read; None if nothing speaks against it.
    """

    location: str
    tensors: int
    needed_bytes: int
    bytes: int | None
    problem: str | None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def external_files(model: onnx.ModelProto, path: Path) -> tuple[ExternalFile, ...]:
    """Return the files that a model needs beside it, in the order of its tensors. None of them is opened.

    Args:
        model: The model, its weights not loaded.
        path: Where it lies.
    """
    found: dict[str, list[tuple[int, str | None]]] = defaultdict(list)
    for tensor in tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            found[entries.get("location", "")].append(_extent(entries))
    return tuple(_external_file(location, extents, path) for location, extents in found.items())


def load_external(model: onnx.ModelProto, path: Path) -> None:
    """Put the weights that lie in other files into a model.

    Requires: no file with a problem (`external_files`).

    Raises:
        ModelError: a file cannot be read.
    """
    for tensor in tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        place = path.parent / entries["location"]
        with reading(place, ModelError, "file of weights"), place.open("rb") as stream:
            stream.seek(int(entries.get("offset") or 0))
            tensor.raw_data = stream.read(int(entries["length"]) if entries.get("length") else -1)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def external_findings(files: Sequence[ExternalFile]) -> list[Finding]:
    """Return what there is to say of the files that a model needs beside it."""
    found = [
        Finding(
            kind="external-data",
            severity="error",
            message=f"its weights in {file.location!r} cannot be read: {file.problem}",
            advice="Put the file where the model says, or export the model into one file",
        )
        for file in files
        if file.problem is not None
    ]
    if files and not found:
        size = bytes_text(sum(file.bytes or 0 for file in files))
        found.append(
            Finding(
                kind="external-data",
                severity="info",
                message=f"{counted(len(files), 'file')} of weights beside it, {size}",
                advice="Ship them with it",
            )
        )
    return found


def _extent(entries: dict[str, str]) -> tuple[int, str | None]:
    """Return how far into its file a tensor reaches, or 0 and what is wrong."""
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or 0)
    except ValueError:
        return 0, "an offset or length is no number"
    return (offset + length, None) if min(offset, length) >= 0 else (0, "an offset or length is negative")


def _external_file(location: str, extents: Sequence[tuple[int, str | None]], path: Path) -> ExternalFile:
    needed = max(reach for reach, _ in extents)
    size, problem = _look(location, path)
    problem = problem or next((wrong for _, wrong in extents if wrong is not None), None)
    if problem is None and size is not None and size < needed:
        problem = f"{size:,} bytes, and {needed:,} are needed: truncated or another model's"
    return ExternalFile(location=location, tensors=len(extents), needed_bytes=needed, bytes=size, problem=problem)


def _look(location: str, path: Path) -> tuple[int | None, str | None]:
    """Return the size of a file, and what is wrong with it; onnxruntime refuses the same places."""
    if not location or "\0" in location:
        return None, "that names no file"
    if PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive:
        return None, "an absolute path; it has to lie in the model's folder"
    folders = (path.parent.resolve(), path.resolve().parent)
    try:
        place = (path.parent / location).resolve()
        if not any(place.is_relative_to(folder) for folder in folders):
            return None, "a path that leaves the model's folder"
        status = place.stat()
    except FileNotFoundError:
        return None, "no such file"
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        return None, getattr(error, "strerror", None) or "no such file"
    if not stat.S_ISREG(status.st_mode):
        return None, "no regular file"
    return status.st_size, None
