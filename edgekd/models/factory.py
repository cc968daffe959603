"""Models of users' own, named `package.module:factory` as in an entry point."""

from __future__ import annotations

import importlib
import inspect
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgekd.errors import ModelError, UsageError, user_code
from edgekd.models import sources
from edgekd.text import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

FORM = "package.module:factory, your own: a function or class that returns a torch.nn.Module"


def is_factory(name: str) -> bool:
    """Return whether a model name is one of a user's own."""
    return ":" in name


def build(
    name: str,
    *,
    classes: int,
    shape: tuple[int, ...],
    arguments: Mapping[str, object],
    folder: Path | None = None,
) -> nn.Module:
    """Import a user's factory, call it and see that its model takes (N, *shape) and gives (N, classes).

    Raises:
        UsageError: no such module or factory, or arguments that it does not take.
        ModelError: importing or calling it failed, or its model does not fit.
    """
    with _own_folders_importable(folder) as folders:
        factory = _factory(name)
        _check_arguments(name, factory, arguments)
        with user_code(f"{name}: calling it failed"):
            model = factory(**arguments)
        sources.digest(sys.modules[name.partition(":")[0]], folders)  # notes what calling it has imported
    if not isinstance(model, nn.Module):
        found = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ModelError(f"{name}: a factory must return a torch.nn.Module, found {found}")
    _check_fits(name, model, classes, shape)
    return model


def source_digest(name: str, folder: Path | None = None) -> str:
    """Return the hex sha256 over the source files behind a factory, as they were when imported.

    Those are the factory's module and what it imports, at the top or within functions, from its own top-level
    package, the folder beside it, `folder` or the current one. What is loaded by a computed name is not seen.

    Raises:
        UsageError: no such module, or one without a file.
        ModelError: importing it failed.
    """
    with _own_folders_importable(folder) as folders:
        return sources.digest(_import(name), folders)


@contextmanager
def _own_folders_importable(folder: Path | None) -> Iterator[list[Path]]:
    """Put the recipe's folder and the current one at the head of the path, and give them."""
    folders = [*([folder] if folder is not None else []), Path.cwd()]
    before = sys.path.copy()
    sys.path[:0] = map(str, folders)
    importlib.invalidate_caches()  # the file may be seconds old
    try:
        yield folders
    finally:
        sys.path[:] = before


def _import(name: str) -> ModuleType:
    module_name, _, factory_name = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), factory_name]):
        raise UsageError(f"{name!r} is no name of a model; it must read package.module:factory")
    with user_code(f"{name}: importing it failed"):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not (error.name and f"{module_name}.".startswith(f"{error.name}.")):
                raise  # found, but something it needs is not
            advice = "; name the module as in an import, without .py" if module_name.endswith(".py") else ""
            raise UsageError(
                f"{name}: there is no module {error.name!r}, neither in {Path.cwd()}, nor beside the recipe, nor "
                f"installed{advice}"
            ) from error
    spec = module.__spec__
    if spec is None or not spec.has_location or spec.origin is None:
        raise UsageError(f"{name}: the module {module.__name__!r} has no file, so nobody can tell when it changes")
    return module


def _factory(name: str) -> Callable[..., object]:
    module, factory_name = _import(name), name.partition(":")[2]
    public = [key for key in vars(module) if not key.startswith("_")]
    factory = getattr(module, factory_name, None)
    if factory is None:
        raise UsageError(f"{name}: {module.__name__} has no {factory_name!r}{nearest(factory_name, public)}")
    if not callable(factory):
        raise UsageError(f"{name}: a factory is a function or a class, found {type(factory).__name__}")
    return factory  # type: ignore[no-any-return]


def _check_arguments(name: str, factory: Callable[..., Any], arguments: Mapping[str, object]) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some built in C have none: calling it will tell
        return
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    unknown = [key for key in arguments if key not in signature.parameters and not takes_any]
    if unknown:
        hint = nearest(unknown[0], signature.parameters)
        raise UsageError(f"{name}: it takes no argument {unknown[0]!r}{hint}; it takes {signature}")
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise UsageError(f"{name}: {error}; it takes {signature}") from error


def _check_fits(name: str, model: nn.Module, classes: int, shape: tuple[int, ...]) -> None:
    """Run two samples of zeros through a model in eval mode, and leave its modes as they were."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with (
            user_code(f"{name}: it does not take float32 of shape (N, {', '.join(map(str, shape))})"),
            torch.no_grad(),
        ):
            logits = model(torch.zeros(2, *shape))
    finally:
        for module, mode in modes:
            module.training = mode
    if not isinstance(logits, torch.Tensor):
        raise ModelError(
            f"{name}: the model must return logits of shape (N, {classes}), found {type(logits).__name__}"
        )
    if logits.shape != (2, classes):
        raise ModelError(
            f"{name}: the model must return logits of shape (N, {classes}) for {classes} classes, "
            f"found {tuple(logits.shape)} for N = 2"
        )
