"""Class labels: checked once, where they enter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_CLASSES = 1_000_000


def check_labels(labels: NDArray[Any], *, where: str, classes: int | None = None) -> NDArray[np.int64]:
    """Return labels as int64.

    Args:
        labels: Integers of shape (n,); or, for classes that occur together, a matrix (n, 2 or more) of 0 and 1.
        where: Names them in messages.
        classes: How many classes there are; None: not known, and then a label only has to be sensible.

    Raises:
        DataError: they are no integers, have another shape, or lie outside [0, classes).
    """
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "iub":
        return _check_matrix(labels, where, classes)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{where}: expected whole numbers of shape (samples,), found {labels.dtype} of shape "
            f"{labels.shape}: store the class index of each sample as int64"
        )
    limit = MAX_CLASSES if classes is None else classes
    wrong = np.flatnonzero((labels < 0) | (labels >= limit))
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"{where}: sample {first} has label {int(labels[first])}, which is out of range; "
            f"expected class indices from 0 to {limit - 1}"
        )
    return labels.astype(np.int64)


def _check_matrix(labels: NDArray[Any], where: str, classes: int | None) -> NDArray[np.int64]:
    wrong = np.flatnonzero(((labels != 0) & (labels != 1)).any(axis=1))
    if wrong.size:
        raise DataError(
            f"{where}: a matrix of labels must hold 0 and 1 only, one column for each class; "
            f"sample {wrong[0]} does not"
        )
    if classes not in (None, labels.shape[1]):
        raise DataError(f"{where}: {labels.shape[1]} columns; expected one for each of {classes} classes")
    return labels.astype(np.int64)


def require_one_each(labels: NDArray[np.int64] | None, where: str) -> None:
    """Refuse labels that occur together, where each sample must have one class.

    Raises:
        DataError: the labels are a matrix.
    """
    if labels is not None and labels.ndim != 1:
        raise DataError(
            f"{where}: labels of shape {labels.shape}, several classes a sample; only distillation by arrays, "
            "`edgekd.distill`, knows such labels: expected one class for each sample, or no labels"
        )


def numbered_classes(labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Return `("0", "1", ...)` up to the highest label, for classes that have no names."""
    return tuple(str(number) for number in range(int(labels.max()) + 1))
