"""What `--data` means: a file, a folder, a recipe's split, or arrays at hand, opened as samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

from edgekd.data.samples import Samples

if TYPE_CHECKING:
    from edgekd.data.contract import Contract

DataLike: TypeAlias = Samples | Mapping[str, Any] | str | PathLike[str]


def open_data(
    data: DataLike, *, inputs: Sequence[str], contract: Contract | None = None, labels: str = "folder"
) -> Samples:
    """Open data for a model.

    Args:
        data: `FILE.npz` with arrays named like the inputs (and optional `labels`); a folder of images; a recipe's
            split as `RECIPE.toml#split`; a mapping of arrays; or samples, which are returned as they are.
        inputs: Names of the model's inputs.
        contract: The model's input contract, if it has one. A folder of images needs it.
        labels: Where the classes of an image folder are from: `"folder"`, `"prefix"` or the name of a CSV file.
    """
    raise NotImplementedError
