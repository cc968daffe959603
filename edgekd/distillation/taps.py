"""Features by dotted module path, of any torch module, as long as a context lasts."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from edgekd.errors import ModelError, UsageError
from edgekd.text import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn


class Taps:
    """What the tapped modules gave in the last forward pass."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = tuple(paths)
        self._found: dict[str, Any] = {}

    def take(self) -> tuple[Tensor, ...]:
        """Return the features in the order of the paths, as float32, and forget them.

        Raises:
            ModelError: a module was not run since the last call, or its output is not one tensor of floats.
        """
        found, self._found = self._found, {}
        return tuple(self._checked(path, found) for path in self._paths)

    def _checked(self, path: str, found: dict[str, Any]) -> Tensor:
        if path not in found:
            raise ModelError(f"distill.taps: the module {path!r} does not run in a forward pass; tap another one")
        feature = found[path]
        if not isinstance(feature, torch.Tensor) or not feature.is_floating_point() or feature.ndim < 2:
            raise ModelError(
                f"distill.taps: the module {path!r} must give one tensor of floats of shape (samples, ...), "
                f"found {type(feature).__name__}"
            )
        return feature.float()

    def hook(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        """Return the forward hook that keeps the output of the module at `path`; of several calls the last."""

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
            self._found[path] = output

        return keep


@contextmanager
def tapped(module: nn.Module, paths: Sequence[str]) -> Iterator[Taps]:
    """Keep the outputs of submodules while the context lasts.

    Only this instance is touched, by forward hooks that are gone afterwards, whatever happens. A module that changes
    its input in place (`ReLU(inplace=True)`) changes the feature of the module before it: tap that one instead.

    Args:
        module: Any torch module.
        paths: Dotted paths as `named_modules` gives them, such as `"layer2.0.relu2"`.

    Raises:
        UsageError: there is no such module.
    """
    known = {path: child for path, child in module.named_modules() if path}
    for path in paths:
        if path not in known:
            raise UsageError(
                f"distill.taps: no module {path!r} in {type(module).__name__}{nearest(path, known)}; "
                f"there are: {', '.join(known)}"
            )
    taps = Taps(paths)
    with ExitStack() as hooks:
        for path in dict.fromkeys(paths):
            handle = known[path].register_forward_hook(taps.hook(path))
            hooks.callback(handle.remove)
        yield taps


def require_samples_first(paths: Sequence[str], shapes: Sequence[tuple[int, ...]], samples: int) -> None:
    """See that the first axis of features is that of the samples: terms would compare anything with anything.

    Args:
        paths: Where each is from, for the message.
        shapes: Theirs, for a batch.
        samples: How many the batch has.

    Raises:
        ModelError: it is not.
    """
    for path, shape in zip(paths, shapes, strict=True):
        if len(shape) < 2 or shape[0] != samples:
            raise ModelError(
                f"distill.taps: {path!r} gives features of shape {shape} for {samples} samples; expected (samples, "
                "...): tap another one"
            )
