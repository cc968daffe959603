"""What can be known to be wrong with a recipe before anything is trained: found in seconds, not after hours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from edgekd.data_settings import DigitsData
from edgekd.errors import RecipeError, UsageError, require_extra
from edgekd.launch import launched
from edgekd.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgekd.data import Contract
    from edgekd.distillation.onnx_teacher import OnnxTeacher
    from edgekd.recipe import ModelSettings, Recipe

T = TypeVar("T")
# by training, weights on disk, the export and the comparison of seeds, of the extra `train`
NEEDED = ("torch", "safetensors", "onnxscript", "scipy")


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
    from edgekd.data.torch_data import check_batch_size
    from edgekd.distillation.precision import check_precision
    from edgekd.distillation.running import best_device
    from edgekd.models import source_digest

    for section, training in {**recipe.all_teachers, "distill": recipe.distill}.items():
        with_key(section, check_batch_size, training.batch_size, launched().size)
        with_key(f"{section}.precision", check_precision, training.precision, best_device())
    for section, model in _architectures(recipe).items():
        with_key(f"{section}.model", source_digest, model.model, recipe.folder)


def check_models(recipe: Recipe, contract: Contract, progress: Progress = SILENT) -> None:
    """Build teacher and student once; a student that is larger than its teacher is worth a remark.

    Raises:
        UsageError: a factory does not take its arguments, or a tap is not there.
        ModelError: a model does not fit the data, tapped features cannot be compared, or images are to be made from a
            teacher without batch normalisation.
    """
    from edgekd.distillation.data_free import require_statistics
    from edgekd.distillation.engine import check_terms
    from edgekd.models import build, count_parameters

    modules = {
        section: with_key(
            f"{section}.model",
            build,
            model.model,
            classes=len(contract.labels),
            shape=contract.shape,
            arguments=model.arguments,
            folder=recipe.folder,
        )
        for section, model in _architectures(recipe).items()
    }
    files = {
        section: _onnx_teacher(settings.onnx, settings.contract, contract)
        for section, settings in recipe.all_teachers.items()
        if settings.onnx is not None
    }
    teacher: Any = {**modules, **files}["teacher"]
    check_terms(recipe.distill, modules["student"], teacher, contract.shape)
    if recipe.distill.data_free is not None:
        require_statistics(teacher)
    sizes = {section: count_parameters(module) for section, module in modules.items()}
    if sizes["student"] > sizes.get("teacher", sizes["student"]):
        progress.note(
            f"the student ({sizes['student']:,} parameters) is larger than its teacher ({sizes['teacher']:,}); "
            "perhaps they were swapped"
        )


def _architectures(recipe: Recipe) -> dict[str, ModelSettings]:
    """Return the models to build by section: not teachers in ONNX files."""
    teachers = {section: teacher for section, teacher in recipe.all_teachers.items() if teacher.onnx is None}
    return {**teachers, "student": recipe.student}


def _onnx_teacher(file: Path, own: Path | None, contract: Contract) -> OnnxTeacher:
    from edgekd.data.contract import read_contract
    from edgekd.distillation.onnx_teacher import OnnxTeacher, adapt

    read = None if own is None else read_contract(own)
    return OnnxTeacher(file, content=adapt(file, contract, read).SerializeToString())


def with_key(key: str, function: Callable[..., T], *arguments: object, **values: object) -> T:
    """Return `function(...)`; a usage error becomes a `RecipeError` that names the recipe's key."""
    try:
        return function(*arguments, **values)
    except UsageError as error:
        raise RecipeError(f"{key}: {error}") from error
