"""An `.npz` file as a recipe's source: one array of samples, and `labels`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekd.data.contract import Contract
from edgekd.data.labels import check_labels, numbered_classes
from edgekd.data.npz import array_names, open_npz
from edgekd.data.sources import ArraySource
from edgekd.errors import DataError
from edgekd.text import counted

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgekd.data.array_file import ArrayFile


def open_npz_source(path: Path, *, labelled: bool = True) -> tuple[ArraySource, str]:
    """Open the samples of an `.npz` file.

    Args:
        labelled: Whether labels are needed; without, those that are there are ignored.
        path: The file. Its array besides `labels` is either uint8 images of shape (N, height, width) or
            (N, height, width, 1 or 3), or ready-made floating-point arrays of shape (N, ...).

    Returns:
        The source, and the name of its array.

    Raises:
        DataError: the file or an array is damaged, an array is missing, or they do not fit each other.
    """
    names = array_names(path)
    arrays = [name for name in names if name != "labels"]
    if (labelled and "labels" not in names) or len(arrays) != 1:
        wanted = "'labels' and one array of samples" if labelled else "one array of samples"
        raise DataError(f"{path}: expected {wanted}, found: {', '.join(names) or 'no arrays'}")
    if arrays[0] in ("", Contract.output):
        raise DataError(
            f"{path}: the array of samples is called {arrays[0]!r}; it names the model's input, whose output is "
            f"{Contract.output!r}: call it something else, such as 'input'"
        )
    opened = open_npz(path, names if labelled else arrays)
    samples, labels = opened[arrays[0]], None
    if samples.ndim < 2:
        raise DataError(f"{path}: {arrays[0]!r} has shape {samples.shape}; expected (samples, ...)")
    if not len(samples):
        raise DataError(f"{path}: no samples; expected at least one")
    if labelled:
        labels = _labels(path, arrays[0], samples, opened["labels"])
    source = ArraySource(
        name=str(path),
        parts=(samples,),
        sample_shape=_sample_shape(samples),
        labels=labels,
        classes=() if labels is None else numbered_classes(labels),
        content=samples.sha256,
    )
    return source, arrays[0]


def _labels(path: Path, name: str, samples: ArrayFile, answers: ArrayFile) -> NDArray[np.int64]:
    if answers.ndim != 1 or len(samples) != len(answers):
        raise DataError(
            f"{path}: {name!r} has shape {samples.shape}, 'labels' has shape {answers.shape}; "
            "expected (samples, ...) and (samples,): a recipe knows one class for each sample"
        )
    return check_labels(answers[np.arange(len(answers))], where=f"{path}: labels")


def _sample_shape(samples: ArrayFile) -> tuple[int, ...]:
    shape = samples.shape[1:]
    if samples.dtype.kind == "f":
        return shape
    if samples.dtype == np.uint8 and len(shape) == 2:
        return (*shape, 1)
    if samples.dtype == np.uint8 and len(shape) == 3 and shape[-1] in (1, 3):
        return shape
    raise DataError(
        f"{samples.where}: found {samples.dtype} of shape {samples.shape}; expected uint8 images of shape "
        f"({counted(len(samples), 'sample')}, height, width) or (..., height, width, 1 or 3), or float32 arrays"
    )
