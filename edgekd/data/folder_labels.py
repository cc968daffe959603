"""The classes of an image folder: from folders, from file names, or from a CSV file."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgekd.data.labels import check_labels, numbered_classes
from edgekd.errors import DataError, reading
from edgekd.text import counted, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_PREFIX = re.compile(r"([0-9]+)_")
_NUMBER = re.compile(r"-?[0-9]+")


class FolderLabels(NamedTuple):
    """Images and their classes.

    Attributes:
        files: Paths of the images, relative to the folder, with `/`.
        labels: Class of each, int64 of shape (n,); None where they have none.
        classes: Names of the classes, in the order of the labels.
        predefined_test: Which are in `test/`, bool of shape (n,); None if there are not just `train/` and `test/`.
    """

    files: tuple[str, ...]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    predefined_test: NDArray[np.bool_] | None


def label_files(folder: Path, files: Sequence[str], how: str, classes: tuple[str, ...]) -> FolderLabels:
    """Find the class of each image.

    Args:
        folder: Where the images are.
        files: Their paths relative to it, with `/`.
        how: `"folder"`, `"prefix"`, `"none"` or the name of a CSV file in `folder`.
        classes: Names of the classes, where a model has set them already; else empty.

    Raises:
        DataError: an image has no class, or the classes are not the model's.
    """
    names: Sequence[str] | None
    if how == "none":
        names = None
    elif how == "prefix":
        names = [_prefix(folder, file) for file in files]
    elif how == "folder":
        names = _first_folders(folder, files)
    else:
        files, names = _read_csv(folder, how, files)
    heads = [file.split("/")[0] for file in files]
    halves = {"train", "test"} == set(heads)
    test = np.array([head == "test" for head in heads], dtype=np.bool_) if halves else None
    if names is None:
        return FolderLabels(tuple(files), None, classes, test)
    where = f"{folder}: labels"
    if how != "folder" and all(_NUMBER.fullmatch(name) for name in names):
        labels = check_labels(_numbers(names, where), where=where, classes=len(classes) or None)
        return FolderLabels(tuple(files), labels, classes or numbered_classes(labels), test)
    order = _class_order(folder, names, classes)
    labels = np.array([order[name] for name in names], dtype=np.int64)
    return FolderLabels(tuple(files), labels, classes or tuple(order), test)


def _numbers(names: Sequence[str], where: str) -> NDArray[np.int64]:
    try:
        return np.array([int(name) for name in names], dtype=np.int64)
    except OverflowError as error:
        raise DataError(f"{where}: a class number is out of range: {max(names, key=len)}") from error


def _class_order(folder: Path, names: Sequence[str], classes: tuple[str, ...]) -> dict[str, int]:
    """Return the index of each class name: the model's where it knows them all, else the sorted order."""
    found = sorted(set(names))
    if set(found) <= set(classes):
        return {name: classes.index(name) for name in found}
    if classes and len(found) != len(classes):
        unknown = next(name for name in found if name not in classes)
        raise DataError(
            f"{folder}: it has {len(found):,} classes, the model {len(classes):,}, and the model does "
            f"not know {unknown!r}{nearest(unknown, classes)}; name the classes as the model does"
        )
    return {name: index for index, name in enumerate(found)}


def _first_folders(folder: Path, files: Sequence[str]) -> list[str] | None:
    """Return the class folder of each image, below `train/` and `test/` if these are all; None without any."""
    split = [file.split("/") for file in files]
    skip = 1 if {parts[0] for parts in split} == {"train", "test"} else 0
    loose = [file for file, parts in zip(files, split, strict=True) if len(parts) < skip + 2]
    if len(loose) == len(files):
        return None
    if loose:
        raise DataError(
            f"{folder}: {counted(len(loose), 'image')} in no class folder, such as {loose[0]!r}; "
            "expected <class>/<image> for all of them"
        )
    return [parts[skip] for parts in split]


def _prefix(folder: Path, file: str) -> str:
    found = _PREFIX.match(file.split("/")[-1])
    if found is None:
        raise DataError(
            f'{folder / file}: no class number in its name; with labels = "prefix" expected a name such as '
            "0123_anything.jpg"
        )
    return found[1]


def _read_csv(folder: Path, name: str, files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the images that a CSV file names, sorted, and what it says of each."""
    path = folder / name
    if not path.is_file():
        known = ["folder", "prefix", *(entry.name for entry in folder.glob("*.csv"))]
        raise DataError(
            f"{folder}: labels = {name!r}: no such CSV file in this folder{nearest(name, known)}; expected "
            '"folder", "prefix" or the name of one'
        )
    known_files, answers = set(files), dict[str, str]()
    with reading(path, DataError, "CSV file"), path.open(newline="", encoding="utf-8-sig") as stream:
        try:
            rows = csv.DictReader(stream, skipinitialspace=True)
            if not {"file", "label"} <= set(rows.fieldnames or ()):
                raise DataError(f"{path}: expected the columns file,label in its first line, found {rows.fieldnames}")
            for row in rows:
                file, label = row["file"], (row["label"] or "").strip()
                problem = _problem(file, label, known_files, answers)
                if problem:
                    raise DataError(f"{path}: line {rows.line_num}: {problem}")
                answers[file] = label
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a CSV file: {error}") from error
    if not answers:
        raise DataError(f"{path}: it names no images")
    chosen = sorted(answers)
    return chosen, [answers[file] for file in chosen]


def _problem(file: str, label: str, files: set[str], seen: dict[str, str]) -> str:
    if not label:
        return f"no label for {file!r}"
    if file not in files:
        return f"{file!r} is no image in this folder"
    return f"{file!r} is named a second time" if file in seen else ""
