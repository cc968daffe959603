"""What can be known to be wrong with a recipe before anything is trained: found in seconds, not after hours."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from edgekd.errors import RecipeError, UsageError, require_extra
from edgekd.progress import SILENT, Progress
from edgekd.recipe import DigitsData

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekd.data import Contract
    from edgekd.recipe import ModelSettings, Recipe

T = TypeVar("T")
NEEDED = ("torch", "safetensors", "onnxscript")  # by training, weights on disk and the export, of the extra `train`


def check_recipe(recipe: Recipe, progress: Progress = SILENT) -> None:
    """See that everything a recipe names is there; data is opened only where that is cheap.

    Raises:
        RecipeError: there is no such device, target or model.
        MissingExtraError: a later stage needs a package that is not installed.
        ModelError: a user's own model cannot be imported; with the digits also one that does not fit them.
    """
    check_names(recipe)
    if isinstance(recipe.data, DigitsData):
        from edgekd.data.splits import open_splits

        check_models(recipe, open_splits(recipe.data, recipe.seed).contract, progress)


def check_names(recipe: Recipe) -> None:
    """See that device, target, packages and models of a recipe exist. See `check_recipe`."""
    from edgekd.devices import load_profile
    from edgekd.targets import find_target

    with_key("bench.device", load_profile, recipe.bench.device)
    with_key("quantize.target", find_target, recipe.quantize.target)
    for module in NEEDED:
        require_extra("train", module)
    from edgekd.models import source_digest

    for section in ("teacher", "student"):
        model: ModelSettings = getattr(recipe, section)
        with_key(f"{section}.model", source_digest, model.model, recipe.folder)


def check_models(recipe: Recipe, contract: Contract, progress: Progress = SILENT) -> None:
    """Build teacher and student once; a student that is larger than its teacher is worth a remark.

    Raises:
        RecipeError: a factory does not take its arguments.
        ModelError: a model does not fit the data.
    """
    from edgekd.models import build, count_parameters

    sizes = {}
    for section in ("teacher", "student"):
        model: ModelSettings = getattr(recipe, section)
        module = with_key(
            f"{section}.model",
            build,
            model.model,
            classes=len(contract.labels),
            shape=contract.shape,
            arguments=model.arguments,
            folder=recipe.folder,
        )
        sizes[section] = count_parameters(module)
    if sizes["student"] > sizes["teacher"]:
        progress.note(
            f"the student ({sizes['student']:,} parameters) is larger than its teacher ({sizes['teacher']:,}); "
            "perhaps they were swapped"
        )


def with_key(key: str, function: Callable[..., T], *arguments: object, **values: object) -> T:
    """Return `function(...)`; a usage error becomes a `RecipeError` that names the recipe's key."""
    try:
        return function(*arguments, **values)
    except UsageError as error:
        raise RecipeError(f"{key}: {error}") from error
