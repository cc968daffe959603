"""The processes of one training: this one alone, or all that torchrun or `accelerate launch` started.

In all of them runs the same code. The main process alone writes; what it finds out reaches the others by `on_main`.
Gradients are averaged by torch's DistributedDataParallel, which accelerate sets up for the devices there are.
"""

from __future__ import annotations

import atexit
import functools
import os
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from edgekd.errors import DeviceError, EdgekdError
from edgekd.launch import launched
from edgekd.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

T = TypeVar("T")
PATIENCE = timedelta(hours=1)  # with a process that lives and does not answer; one that ended is noticed at once
_LOST = ("gloo", "nccl", "connection", "timed out", "timeout", "store")  # words of backends that lost a process


class Processes:
    """This process alone: nothing is shared out, and nothing costs anything."""

    rank = 0
    size = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def on_main(self, make: Callable[[], T]) -> T:
        """Return in all processes what `make` returns in the main one; an `EdgekdError` is raised in all of them."""
        return make()

    def gathered(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        return [value]

    def wait(self) -> None:
        """Go on when all processes are here."""

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        return values

    def connected(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are the mean over all processes after each backward pass."""
        return module

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:  # noqa: ARG002
        """Leave the gradients of a connected module to this process while the context lasts."""
        return nullcontext()

    def align_buffers(self, module: nn.Module) -> None:
        """Give the main process's buffers, such as running statistics, to all."""

    def reached(self) -> AbstractContextManager[None]:
        """Turn the loss of another process into a `DeviceError`."""
        return nullcontext()

    def heard(self, progress: Progress) -> Progress:
        """Return whom this process reports to."""
        return progress


class _Launched(Processes):
    """One of several processes."""

    def __init__(self) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

        handlers = [
            # a term may leave parameters out for a time; buckets that stay as they are make a resume bit-exact
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ]
        with self.reached():
            self._accelerator = Accelerator(
                mixed_precision="no", cpu=not torch.cuda.is_available(), kwargs_handlers=handlers
            )
            atexit.register(distributed.destroy_process_group)  # its threads must end before the interpreter does
            self.rank, self.size = self._accelerator.process_index, self._accelerator.num_processes

    def on_main(self, make: Callable[[], T]) -> T:
        told: list[Any] = [None]
        if self.is_main:
            try:
                told = [(make(), None)]
            except EdgekdError as error:
                told = [(None, error)]
        with self.reached():
            distributed.broadcast_object_list(told, src=0)
        value, failure = told[0]
        if failure is not None:
            raise failure
        made: T = value
        return made

    def gathered(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.size
        with self.reached():
            distributed.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        with self.reached():
            self._accelerator.wait_for_everyone()

    def mean(self, values: Tensor) -> Tensor:
        with self.reached():
            found: Tensor = self._accelerator.reduce(values, reduction="mean")
        return found

    def connected(self, module: nn.Module) -> nn.Module:
        with self.reached():
            prepared: nn.Module = self._accelerator.prepare_model(module)
        return prepared

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = self._accelerator.no_sync(module)
        return context

    def align_buffers(self, module: nn.Module) -> None:
        with self.reached():
            for buffer in module.buffers():
                distributed.broadcast(buffer, src=0)

    @contextmanager
    def reached(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not any(word in str(error).lower() for word in _LOST):
                raise
            raise DeviceError(
                "another process of this training ended or cannot be reached; what it said tells why. Run the same "
                "command again: finished stages stay, and training continues from its last checkpoint"
            ) from error

    def heard(self, progress: Progress) -> Progress:
        return progress if self.is_main else SILENT


@functools.cache
def join() -> Processes:
    """Return the processes of this training, and meet the others if there are any.

    Raises:
        DeviceError: they cannot be reached.
        UsageError: the environment contradicts itself.
    """
    return _Launched() if launched().size > 1 else Processes()


def first_to_say(message: str) -> bool:
    """Return whether no other process of the same launch has said this before."""
    try:
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=5))
        return bool(store.add(f"edgekd/said/{message}", 1) == 1)
    except (KeyError, ValueError, RuntimeError):  # nobody to ask: better twice than never
        return True
