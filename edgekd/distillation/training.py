"""The training loop: one for teachers, students and controls; what they learn from is an objective.

A killed training continues from its last checkpoint bit-exactly: `state.py` keeps all that changes, and the order of
samples, their augmentation, the learning rate and the schedules of terms are functions of the position in it.
"""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from edgekd.data.opening import open_data
from edgekd.data.torch_data import TrainingBatches, Views, tensor_batches
from edgekd.distillation.objective import Step
from edgekd.distillation.optimisation import learning_rate
from edgekd.distillation.running import best_device, placed, run_logits
from edgekd.distillation.state import Saver, State
from edgekd.errors import DataError, ModelError, UsageError, user_code
from edgekd.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from edgekd.data.samples import Samples
    from edgekd.distillation.objective import Objective
    from edgekd.distillation.state import Checkpoints, Epoch
    from edgekd.progress import Task
    from edgekd.recipe import TrainingSettings

EXPLODED = 1e4  # a part of the loss that is so many times as large as at first (or as 1) will not come back


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network: the epoch that was best on the validation split.

    Attributes:
        module: In eval mode on the CPU, with the weights of that epoch.
        history: Every epoch.
        best_epoch: Index into `history`.
    """

    module: nn.Module
    history: tuple[Epoch, ...]
    best_epoch: int

    def metrics(self) -> dict[str, Any]:
        """Return the figures for a card."""
        return {
            "best_epoch": self.best_epoch,
            "validation_top1": self.history[self.best_epoch].validation_top1,
            "history": [asdict(epoch) for epoch in self.history],
        }


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of training images.

    Attributes:
        crop_padding: Shifts by up to so many pixels in each direction.
        flip: Mirroring, half of the time.
        views: A limited number of them for each image; None: new ones in every epoch.
    """

    crop_padding: int = 0
    flip: bool = False
    views: Views | None = None


def train_network(
    module: nn.Module,
    train: Samples | Mapping[str, NDArray[Any]],
    validation: Samples | Mapping[str, NDArray[Any]],
    objective: Objective,
    *,
    settings: TrainingSettings,
    augmentation: Augmentation,
    seed: int,
    checkpoints: Checkpoints | None = None,
    title: str = "train",
    progress: Progress = SILENT,
) -> Trained:
    """Train a network in place on an objective.

    Args:
        module: Takes float32 (N, ...), gives logits (N, classes).
        train: Samples with labels: one array of inputs, and `labels`.
        validation: Chooses the best epoch.
        objective: What it learns from.
        settings: How.
        augmentation: Of the training images.
        seed: Of the order of samples and of the augmentation.
        checkpoints: Where to save and resume; None: nowhere.
        title: What the progress is called.
        progress: Listener.

    Raises:
        DataError: no labels, labels that are no class of the model, several inputs, or NaN in the data.
        ModelError: the network does not fit the data, its code fails, or the training diverged: it then has the
            weights of its best epoch.
        UsageError: the seed is out of range.
    """
    samples, judges = open_labelled(train), open_labelled(validation)
    loader = training_batches(samples, settings, augmentation, seed)
    classes = _Classes(samples, judges)
    device = best_device()
    with torch.random.fork_rng(), placed(module, device), placed(objective.learnt, device):
        torch.manual_seed(seed)
        state = State(module, objective.learnt, settings)
        resumed = checkpoints is not None and state.restore(checkpoints)
        total = settings.epochs * loader.steps
        done = state.epoch * loader.steps + state.step
        if resumed:
            progress.note(f"{title}: continues at epoch {state.epoch + 1} of {settings.epochs}")
        saver = Saver(state, checkpoints, written=resumed)
        try:
            with progress.task(title, total, done) as task:
                while not state.finished:
                    _train_epoch(state, loader, classes, objective, total, device, saver, task)
                    state.finish_epoch(*_validate(module, judges, settings.batch_size, device))
                    saver.save_when_due()
        except _Diverged as problem:
            state.bring_back_best()
            raise ModelError(f"training diverged: {problem}; {saver.last_good()}") from problem
        state.bring_back_best()
        if len(state.history) < settings.epochs:
            progress.note(f"{title}: stopped after epoch {len(state.history)}, the best was {state.best_epoch + 1}")
        with user_code("the network's eval() failed"):
            module.eval()
    return Trained(module=module, history=tuple(state.history), best_epoch=state.best_epoch)


def training_batches(
    samples: Samples, settings: TrainingSettings, augmentation: Augmentation, seed: int
) -> TrainingBatches:
    """Return the batches that a training with these settings sees; see `train_network` for the errors."""
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UsageError(f"the seed must be a whole number from 0 to {2**32 - 1}, found {seed!r}")
    return TrainingBatches(
        samples,
        batch_size=settings.batch_size,
        seed=seed,
        crop_padding=augmentation.crop_padding,
        flip=augmentation.flip,
        views=augmentation.views,
        workers=settings.workers,
    )


def open_labelled(data: Samples | Mapping[str, NDArray[Any]]) -> Samples:
    """Return samples to train on: one array of inputs, and labels.

    Raises:
        DataError: there are no labels, or several inputs.
    """
    samples = open_data(data, inputs=())
    if samples.labels is None:
        raise DataError(f"{samples.name}: training needs labels, the data has none")
    return samples


class _Classes:
    """The labels there are, to hold a network's logits against."""

    def __init__(self, *splits: Samples) -> None:
        self.highest = -1
        for samples in splits:
            labels = samples.labels
            if labels is not None and len(labels):
                if int(labels.min()) < 0:
                    raise DataError(f"{samples.name}: labels must be 0 or more, found {int(labels.min())}")
                self.highest = max(self.highest, int(labels.max()))

    def check(self, logits: Tensor) -> None:
        """Raise a `DataError` if there is a label without a logit."""
        if self.highest >= logits.shape[1]:
            raise DataError(
                f"the labels reach {self.highest}, but the network tells {logits.shape[1]} classes apart "
                f"(0 to {logits.shape[1] - 1})"
            )


class _Diverged(Exception):  # noqa: N818  it ends a training, and is told as a ModelError
    """What went wrong, and where."""


def _train_epoch(
    state: State,
    loader: TrainingBatches,
    classes: _Classes,
    objective: Objective,
    total: int,
    device: torch.device,
    saver: Saver,
    task: Task,
) -> None:
    with user_code("the network's train() failed"):
        state.module.train()
    for inputs, labels, positions in loader.epoch(state.epoch, state.step):
        done = state.epoch * loader.steps + state.step
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(done, total, state.settings)
        moved = inputs.to(device)
        logits = run_logits(state.module, moved)
        if not logits.requires_grad:
            raise ModelError(
                "the network's logits carry no gradient, so it cannot learn: its forward() detaches them, computes "
                "them without gradients, or none of the parameters in use is trainable"
            )
        classes.check(logits)
        step = Step(
            inputs=moved,
            logits=logits,
            labels=labels.to(device),
            positions=positions,
            epoch=state.epoch,
            share=done / total,
        )
        parts = objective(step)
        loss = functools.reduce(operator.add, parts.values())
        value = float(loss.detach())
        _watch(state, parts, value)
        state.optimizer.zero_grad(set_to_none=True)
        with user_code("the network's backward pass failed"):
            loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        state.step += 1
        state.loss_sum += value
        task.advance(1, f"loss {value:.3f}")
        saver.save_when_due()


def _watch(state: State, parts: Mapping[str, Tensor], loss: float) -> None:
    """Stop a training whose loss is not finite or has exploded, and name the term."""
    values = {name: loss if len(parts) == 1 else float(part.detach()) for name, part in parts.items()}
    for name, value in values.items():
        first = state.first.setdefault(name, value)
        if not math.isfinite(value) or abs(value) > EXPLODED * max(1.0, abs(first)):
            raise _Diverged(
                f"the term {name!r} of the loss is {value:g} at epoch {state.epoch + 1}, step {state.step + 1} "
                f"(at first {first:g}); a lower learning_rate, or a lower weight of that term, is the usual remedy"
            )


@torch.no_grad()
def _validate(module: nn.Module, judges: Samples, batch_size: int, device: torch.device) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy."""
    module.eval()
    loss, correct = 0.0, 0
    for inputs, labels, _ in tensor_batches(judges, batch_size):
        logits = run_logits(module, inputs.to(device)).cpu()
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        correct += int((logits.argmax(dim=1) == labels).sum())
    if not math.isfinite(loss):
        raise _Diverged("the validation loss is not finite; a lower learning_rate is the usual remedy")
    return loss / len(judges), correct / len(judges)
