"""Teachers: who answers for a batch. A torch module here; ONNX files and stored answers in modules of their own."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from edgekd.distillation.running import frozen, placed, run_logits
from edgekd.distillation.taps import tapped
from edgekd.distillation.threads import on_threads, threads_worth
from edgekd.models import dump_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor, nn


class Answers(NamedTuple):
    """What a teacher says to a batch.

    Attributes:
        logits: Shape (N, classes).
        features: One tensor (N, ...) for each tap.
    """

    logits: Tensor
    features: tuple[Tensor, ...]


if TYPE_CHECKING:
    # (inputs float32 (N, ...), positions of the samples int64 (N,), epoch) -> answers
    Ask = Callable[[Tensor, Tensor, int], Answers]


class Teacher(Protocol):
    """Something that answers for samples."""

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of all that decides its answers."""

    @property
    def libraries(self) -> Sequence[str]:
        """The packages whose version matters to its answers."""

    def ready(self, device: torch.device, taps: Sequence[str]) -> AbstractContextManager[Ask]:
        """Be ready to be asked, while the context lasts.

        Args:
            device: Where inputs come from and answers go.
            taps: Places whose features are wanted.
        """


class TorchTeacher:
    """A torch module, frozen and in eval mode while it teaches; its own state is restored afterwards."""

    libraries = ("numpy", "torch")

    def __init__(self, module: nn.Module, fingerprint: str | None = None) -> None:
        """Take a module.

        Args:
            module: Takes float32 (N, ...), gives logits (N, classes).
            fingerprint: Of all that decides its answers. By default that of its weights and of what it prints as:
                the code of its `forward` is not looked at.
        """
        self._module = module
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of all that decides its answers."""
        if self._fingerprint is None:
            digest = hashlib.sha256(f"{type(self._module).__qualname__} {self._module!r}".encode())
            digest.update(dump_weights(self._module))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    @contextmanager
    def ready(self, device: torch.device, taps: Sequence[str]) -> Iterator[Ask]:
        """Be ready to be asked; see `Teacher`."""
        module, threads = self._module, dict[int, int]()
        available = torch.get_num_threads()  # asked later, while a student trains, torch would tell the student's

        def ask(inputs: Tensor, positions: Tensor, epoch: int) -> Answers:  # noqa: ARG001
            samples = len(inputs)
            if samples not in threads:
                threads[samples] = threads_worth(module, inputs[:2], samples, available=available)
            with torch.no_grad(), on_threads(threads[samples]):
                logits = run_logits(module, inputs, "the teacher")
            return Answers(logits, features.take())

        with frozen(module), placed(module, device), tapped(module, taps) as features:
            yield ask
