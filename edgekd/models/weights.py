"""Weights of a module on disk: read with no code of the file run, checked whole before anything is changed."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import safetensors.torch
import torch

from edgekd.errors import ModelError, reading, user_code
from edgekd.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from torch import Tensor, nn

_PICKLED = (".pt", ".pth", ".bin")
_SUFFIXES = (".safetensors", *_PICKLED)
_NESTED = ("state_dict", "model")  # where training scripts keep the weights among other things
_PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel and by torch.compile
_SHOWN = 3


def count_parameters(module: nn.Module) -> int:
    """Return how many numbers a module learns; a parameter shared by two layers counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def dump_weights(module: nn.Module) -> bytes:
    """Return a module's state dict in the safetensors format. Equal weights give equal bytes.

    Raises:
        ModelError: the weights hold NaN or infinity, or something that is no tensor.
    """
    state = _state(module)
    _check_finite(state, "the model")
    # clone: safetensors refuses tensors that share memory, as tied weights do
    return safetensors.torch.save({key: value.detach().cpu().contiguous().clone() for key, value in state.items()})


def load_weights(module: nn.Module, path: str | PathLike[str]) -> None:
    """Fill a module with the weights of a checkpoint.

    Args:
        module: Built as the checkpoint's model was. Its dtypes and devices stay; it is not touched on failure.
        path: A `.safetensors` file, or a `.pt`, `.pth` or `.bin` file of `torch.save`: a state dict, or a dict
            that holds one under `state_dict` or `model`. Prefixes left by `DataParallel` and `torch.compile` are
            taken off.

    Raises:
        ModelError: the file is missing, damaged, no checkpoint or unsafe to read; its weights do not fit the
            module; or they hold NaN or infinity.
    """
    path = Path(path)
    expected = _state(module)
    found = _without_prefix(_tensors(_unwrapped(_read(path)), str(path)), expected)
    _check_fits(found, expected, str(path))
    converted = {key: found[key].to(value.dtype) for key, value in expected.items()}
    _check_finite(converted, str(path))
    with user_code(f"{path}: the model's load_state_dict() failed"):
        module.load_state_dict(converted)


def _state(module: nn.Module) -> dict[str, Tensor]:
    with user_code("the model's state_dict() failed"):
        state = module.state_dict()
    return _tensors(state, "the model")


def _read(path: Path) -> object:
    if path.suffix not in _SUFFIXES:
        raise ModelError(f"{path}: a checkpoint's name ends in {', '.join(_SUFFIXES)}, found {path.suffix!r}")
    with reading(path, ModelError, "checkpoint"), path.open("rb"):
        pass
    if path.suffix in _PICKLED:
        return _read_pickled(path)
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise _damaged(path, "a safetensors file") from error


def _read_pickled(path: Path) -> object:
    """Read a file of `torch.save` without running code from it.

    The messages of torch are not passed on: they advise `weights_only=False`, whoever the file is from.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a TorchScript archive before it refuses it
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        if culprit is None:
            raise _damaged(path, "a file of torch.save") from error
        raise ModelError(
            f"{path}: it holds more than tensors ({culprit[1]}), and reading that could run any code. If you "
            "trust it, load it in Python with weights_only=False, then save the state dict alone with torch.save"
        ) from error
    except Exception as error:
        if "TorchScript archive" in str(error):
            raise ModelError(
                f"{path}: expected weights, found a TorchScript archive. Load it in Python with torch.jit.load, "
                "then save its state dict with torch.save"
            ) from error
        raise _damaged(path, "a file of torch.save") from error


def _damaged(path: Path, expected: str) -> ModelError:
    size = counted(path.stat().st_size, "byte")
    return ModelError(f"{path}: expected {expected}, found {size} that are none or only part of one; fetch it again")


def _unwrapped(checkpoint: object) -> object:
    if isinstance(checkpoint, Mapping):
        for key in _NESTED:
            if isinstance(checkpoint.get(key), Mapping):
                return checkpoint[key]
    return checkpoint


def _tensors(state: object, where: str) -> dict[str, Tensor]:
    """Return a state dict as a dict of tensors by name."""
    if not isinstance(state, Mapping):
        raise ModelError(f"{where}: expected a state dict (tensors by name), found {type(state).__name__}")
    others = [f"{key} ({type(v).__name__})" for key, v in state.items() if not isinstance(v, torch.Tensor)]
    if others:
        raise ModelError(
            f"{where}: expected a state dict (tensors by name), or one under {' or '.join(_NESTED)}; "
            f"found entries that are no tensors: {_first(others)}"
        )
    return {str(key): value for key, value in state.items()}


def _without_prefix(found: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if found and all(key.startswith(prefix) for key in found) and not found.keys() <= expected.keys():
            found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


def _check_fits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    different = [
        f"{key} (expected {_described(value)}, found {_described(found[key])})"
        for key, value in expected.items()
        if key in found and _differs(found[key], value)
    ]
    faults = [
        f"{len(names)} {kind}: {_first(names)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape or kind", different),
        )
        if names
    ]
    if faults:
        raise ModelError(
            f"{where}: the weights do not fit the model; {'; '.join(faults)}. "
            "Build the model that the checkpoint was saved from, with the same number of classes"
        )


def _differs(found: Tensor, expected: Tensor) -> bool:
    """Return whether one cannot stand for the other: float16 can for float32, INT8 cannot."""
    return found.shape != expected.shape or found.is_floating_point() != expected.is_floating_point()


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _check_finite(state: Mapping[str, Tensor], where: str) -> None:
    broken = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ModelError(
            f"{where}: {counted(len(broken), 'tensor')} of {len(state)} hold NaN or infinity as "
            f"{str(state[broken[0]].dtype).removeprefix('torch.')}: {_first(broken)}; the training that made them "
            "diverged, or they overflow that type"
        )


def _first(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
