"""What `--data` means: a file, a folder, a recipe's split, or arrays at hand, opened as samples."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgekd.data.image_folder import ImageFolder
from edgekd.data.labels import check_labels
from edgekd.data.npz import array_names, open_npz
from edgekd.data.samples import ArraySamples, ImageSamples, Samples
from edgekd.data.splits import SPLIT_NAMES, open_splits
from edgekd.errors import DataError, UsageError, reading
from edgekd.text import nearest

if TYPE_CHECKING:
    from edgekd.data.contract import Contract

DataLike: TypeAlias = Samples | Mapping[str, Any] | str | PathLike[str]
"""What `open_data` takes."""

_FORMS = "FILE.npz, a folder of images, or RECIPE.toml#split"


def open_data(
    data: DataLike, *, inputs: Sequence[str], contract: Contract | None = None, labels: str = "folder"
) -> Samples:
    """Open data for a model.

    Args:
        data: `FILE.npz` with arrays named like the inputs, first axis samples, and optional `labels`; a mapping of
            such arrays; a folder of images, prepared as `contract` says; a recipe's split as `RECIPE.toml#split`,
            prepared as `contract` says or, without one, as the recipe does; or samples. A split or samples of images
            are renamed to the model's input if it has only one.
        inputs: Names of the model's inputs; empty: whatever there is.
        contract: The model's input contract, if it has one.
        labels: Where the classes of an image folder are from: `"folder"`, `"prefix"` or the name of a CSV file.

    Returns:
        Samples that give an array for each input. Arrays keep their dtypes.

    Raises:
        DataError: the data is missing, damaged, or does not fit.
        UsageError: `data` has none of these forms, or the recipe has no such split.
        RecipeError: the recipe cannot be read.
    """
    classes = len(contract.labels) or None if contract else None
    if isinstance(data, Mapping):
        return _from_mapping(data, inputs, classes)
    if not isinstance(data, str | PathLike):
        if not hasattr(data, "batch"):
            raise UsageError(
                f"data: expected {_FORMS}, a mapping of arrays by input name, or samples; found {type(data).__name__}"
            )
        return _renamed(data, inputs) if isinstance(data, ImageSamples) else data
    recipe, _, split = os.fspath(data).rpartition("#")
    if recipe.endswith(".toml"):
        return _checked(_from_recipe(Path(recipe), split, inputs, contract), classes)
    path = Path(data)
    with reading(path, DataError, "file or folder"):
        is_folder, is_there = path.is_dir(), path.exists()
    if is_folder:
        return _checked(_from_folder(path, inputs, contract, labels), classes)
    if path.suffix == ".toml":
        raise UsageError(f"{path}: say which split of this recipe: {path}#test; one of {', '.join(SPLIT_NAMES)}")
    if not is_there:
        raise DataError(f"{path}: no such file or folder; expected {_FORMS}")
    if path.suffix != ".npz":
        raise DataError(f"{path}: not a kind of data that is known here; expected {_FORMS}")
    return _from_npz(path, inputs, classes)


def _from_mapping(arrays: Mapping[str, Any], inputs: Sequence[str], classes: int | None) -> ArraySamples:
    wanted = _wanted("data", list(arrays), inputs)
    return ArraySamples({name: arrays[name] for name in wanted}, name="data", classes=classes)


def _from_npz(path: Path, inputs: Sequence[str], classes: int | None) -> ArraySamples:
    wanted = _wanted(str(path), array_names(path), inputs)
    return ArraySamples(open_npz(path, wanted), name=str(path), classes=classes)


def _wanted(where: str, known: Sequence[str], inputs: Sequence[str]) -> list[str]:
    """Return the names of the arrays to open: the inputs', and `labels` if there are any."""
    for name in inputs:
        if name not in known:
            raise DataError(
                f"{where}: no array for the model's input {name!r}{nearest(name, known)}; the model takes: "
                f"{', '.join(inputs)}; found: {', '.join(known) or 'no arrays'}. Name each array like an input"
            )
    return [name for name in known if not inputs or name in inputs or name == "labels"]


def _from_folder(path: Path, inputs: Sequence[str], contract: Contract | None, labels: str) -> ImageSamples:
    if contract is None or contract.layout == "as-is":
        raise DataError(
            f"{path}: a folder of images needs the model's input contract (layout, size, colour, mean, std), which "
            "the model's metadata does not hold; give one with --contract FILE.json"
        )
    source = ImageFolder(
        path,
        labels=labels,
        size=contract.size,
        colour="gray" if contract.colour == "gray" else "RGB",
        classes=contract.labels,
    )
    if source.predefined_test is not None:
        raise DataError(f"{path}: holds train/ and test/; say which, such as {path / 'test'}")
    everything = np.arange(len(source), dtype=np.int64)
    return _renamed(ImageSamples(name=str(path), source=source, indices=everything, contract=contract), inputs)


def _from_recipe(path: Path, split: str, inputs: Sequence[str], contract: Contract | None) -> ImageSamples:
    if split not in SPLIT_NAMES:
        raise UsageError(
            f"{path}#{split}: no such split{nearest(split, SPLIT_NAMES)}; expected one of {', '.join(SPLIT_NAMES)}"
        )
    from edgekd.recipe_file import load_recipe

    recipe = load_recipe(path)
    samples = open_splits(recipe.data, recipe.seed).split(split)
    own = samples.contract
    if contract is not None and own.layout != "as-is" and contract.layout != "as-is":
        if (contract.size, contract.channels) != (own.size, own.channels):
            raise DataError(
                f"{path}#{split}: images of {own.size[0]}x{own.size[1]} with {own.channels} channels, but the model "
                f"takes {contract.size[0]}x{contract.size[1]} with {contract.channels}"
            )
        samples = replace(samples, contract=contract)
    return _renamed(replace(samples, name=f"{path}#{split}"), inputs)


def _renamed(samples: ImageSamples, inputs: Sequence[str]) -> ImageSamples:
    """Name the one array of `samples` like the model's one input."""
    if not inputs:
        return samples
    if len(inputs) > 1:
        raise DataError(
            f"{samples.name}: gives one array, the model takes {len(inputs)}: {', '.join(inputs)}; use an .npz file "
            "with an array for each"
        )
    return replace(samples, contract=replace(samples.contract, input=inputs[0]))


def _checked(samples: ImageSamples, classes: int | None) -> ImageSamples:
    """Refuse labels that the model has no class for."""
    if samples.labels is not None:
        check_labels(samples.labels, where=f"{samples.name}: labels", classes=classes)
    return samples
