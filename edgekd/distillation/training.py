"""The training loop: one for teachers, students and controls; what they learn from is an objective.

A killed training continues from its last checkpoint bit-exactly: the checkpoint holds weights (of the network and of
what the objective learns), optimizer, torch's random state and the position (epoch, step). The order of samples,
their augmentation, the learning rate and the schedules of terms are functions of that position.
"""

from __future__ import annotations

import copy
import functools
import io
import math
import operator
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from edgekd.artifact import rounded, write_bytes
from edgekd.data.opening import open_data
from edgekd.data.torch_data import TrainingBatches, Views, tensor_batches
from edgekd.distillation.objective import Step
from edgekd.distillation.running import best_device, placed, run_logits
from edgekd.errors import DataError, ModelError, UsageError, user_code
from edgekd.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from edgekd.data.samples import Samples
    from edgekd.distillation.objective import Objective
    from edgekd.progress import Task
    from edgekd.recipe import TrainingSettings

EXPLODED = 1e4  # a part of the loss that is so many times as large as at first (or as 1) will not come back


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training samples.

    Attributes:
        loss: Mean training loss.
        validation_loss: Mean cross-entropy on the validation split.
        validation_top1: Accuracy on the validation split.
    """

    loss: float
    validation_loss: float
    validation_top1: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network.

    Attributes:
        module: In eval mode on the CPU, with the weights of the epoch that is kept.
        history: Every epoch.
        best_epoch: The best one on the validation split, an index into `history`.
        kept_epoch: That one or the last, as the settings say.
    """

    module: nn.Module
    history: tuple[Epoch, ...]
    best_epoch: int
    kept_epoch: int

    def metrics(self) -> dict[str, Any]:
        """Return the figures for a card."""
        return {
            "best_epoch": self.best_epoch,
            "kept_epoch": self.kept_epoch,
            "validation_top1": self.history[self.kept_epoch].validation_top1,
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


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where an interrupted training is picked up again.

    Attributes:
        path: The file.
        key: Says what is being trained; a checkpoint with another key is not used.
        every_s: Seconds between two of them.
    """

    path: Path
    key: str
    every_s: float = 10.0


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
        validation: Says which epoch was best.
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
        state = _State(module, objective.learnt, settings)
        resumed = checkpoints is not None and state.restore(checkpoints)
        total = settings.epochs * loader.steps
        done = state.epoch * loader.steps + state.step
        if resumed:
            progress.note(f"{title}: continues at epoch {state.epoch + 1} of {settings.epochs}")
        saver = _Saver(state, checkpoints, written=resumed)
        try:
            with progress.task(title, total, done) as task:
                while not state.finished:
                    _train_epoch(state, loader, classes, objective, total, device, saver, task)
                    state.finish_epoch(*_validate(module, judges, settings.batch_size, device))
                    saver.save_when_due()
        except _Diverged as problem:
            state.bring_back_best()
            raise ModelError(f"training diverged: {problem}; {saver.last_good()}") from problem
        kept = len(state.history) - 1
        if settings.keep == "best":
            state.bring_back_best()
            kept = state.best_epoch
        if len(state.history) < settings.epochs:
            progress.note(f"{title}: stopped after epoch {len(state.history)}, the best was {state.best_epoch + 1}")
        with user_code("the network's eval() failed"):
            module.eval()
    return Trained(module=module, history=tuple(state.history), best_epoch=state.best_epoch, kept_epoch=kept)


def training_batches(
    samples: Samples, settings: TrainingSettings, augmentation: Augmentation, seed: int
) -> TrainingBatches:
    """Return the batches that a training with these settings sees; see `train_network` for the errors."""
    check_seed(seed)
    return TrainingBatches(
        samples,
        batch_size=settings.batch_size,
        seed=seed,
        crop_padding=augmentation.crop_padding,
        flip=augmentation.flip,
        views=augmentation.views,
        workers=settings.workers,
    )


def check_seed(seed: int) -> None:
    """Raise a `UsageError` if the seed is out of range."""
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UsageError(f"the seed must be a whole number from 0 to {2**32 - 1}, found {seed!r}")


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


class _State:
    """Everything that changes during a training."""

    def __init__(self, module: nn.Module, learnt: nn.Module, settings: TrainingSettings) -> None:
        self.module = module
        self.learnt = learnt  # by the objective
        self.settings = settings
        self.optimizer = _optimizer(module, learnt, settings)
        self.epoch = 0
        self.step = 0  # within the epoch
        self.loss_sum = 0.0
        self.history: list[Epoch] = []
        self.best_epoch = -1
        self.best_weights: dict[str, Any] = {}
        self.first: dict[str, float] = {}  # each part of the loss, when it first counted

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or no better one has come for too long."""
        patience = self.settings.patience
        waited = len(self.history) - 1 - self.best_epoch
        return self.epoch >= self.settings.epochs or (patience is not None and waited >= patience)

    @property
    def is_finite(self) -> bool:
        """Whether all weights are."""
        values = (*self.module.state_dict().values(), *self.learnt.state_dict().values())
        return all(bool(torch.isfinite(value).all()) for value in values if isinstance(value, torch.Tensor))

    def finish_epoch(self, validation_loss: float, validation_top1: float) -> None:
        """Book an epoch; a better one on validation (accuracy, then loss) becomes the best."""
        epoch = Epoch(
            loss=rounded(self.loss_sum / self.step),
            validation_loss=rounded(validation_loss),
            validation_top1=rounded(validation_top1),
        )
        best = self.history[self.best_epoch] if self.history else None
        self.history.append(epoch)
        if best is None or _rank(epoch) > _rank(best):
            self.best_epoch = self.epoch
            self.best_weights = copy.deepcopy(self.module.state_dict())
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0

    def bring_back_best(self) -> None:
        """Give the network the weights of its best epoch, if one was finished."""
        if self.best_epoch >= 0:
            with user_code("the network's load_state_dict() failed"):
                self.module.load_state_dict(self.best_weights)

    def dump(self, key: str) -> bytes:
        buffer = io.BytesIO()
        content = {
            "key": key,
            "module": self.module.state_dict(),
            "learnt": self.learnt.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "position": [self.epoch, self.step],
            "loss_sum": self.loss_sum,
            "history": [asdict(epoch) for epoch in self.history],
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
            "first": self.first,
        }
        torch.save(content, buffer)
        return buffer.getvalue()

    def restore(self, checkpoints: Checkpoints) -> bool:
        """Load a checkpoint of the same key; a missing, damaged or foreign one is left alone."""
        try:
            content = torch.load(checkpoints.path, weights_only=True)
            if content["key"] != checkpoints.key:
                return False
        except Exception:  # noqa: BLE001  whatever torch finds wrong with it: training starts at the beginning
            return False
        self.module.load_state_dict(content["module"])
        self.learnt.load_state_dict(content["learnt"])
        self.optimizer.load_state_dict(content["optimizer"])
        torch.set_rng_state(content["random"])
        self.epoch, self.step = content["position"]
        self.loss_sum = content["loss_sum"]
        self.history = [Epoch(**epoch) for epoch in content["history"]]
        self.best_epoch = content["best_epoch"]
        self.best_weights = content["best_weights"]
        self.first = content["first"]
        return True


@dataclass
class _Saver:
    """Writes checkpoints when enough time has passed. When they are written does not change any result."""

    state: _State
    checkpoints: Checkpoints | None
    written: bool
    last: float = field(default_factory=time.monotonic)

    def save_when_due(self) -> None:
        """Write one, unless the training is about to diverge: the last good one then stays."""
        if self.checkpoints is None or time.monotonic() - self.last < self.checkpoints.every_s:
            return
        if self.state.is_finite:
            write_bytes(self.checkpoints.path, self.state.dump(self.checkpoints.key))
            self.written = True
        self.last = time.monotonic()

    def last_good(self) -> str:
        """Say what is left of a training that diverged."""
        best = self.state.best_epoch
        kept = f"the weights of epoch {best + 1} are kept" if best >= 0 else "no epoch had been finished"
        if self.checkpoints is None or not self.written:
            return kept
        return f"{kept}; the last good checkpoint is {self.checkpoints.path}"


def _train_epoch(
    state: _State,
    loader: TrainingBatches,
    classes: _Classes,
    objective: Objective,
    total: int,
    device: torch.device,
    saver: _Saver,
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


def _watch(state: _State, parts: Mapping[str, Tensor], loss: float) -> None:
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


def learning_rate(step: int, total: int, settings: TrainingSettings) -> float:
    """Return the rate at a step: linear warm-up, then half a cosine to zero (Loshchilov and Hutter 2017)."""
    warmup = int(total * settings.warmup)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _optimizer(module: nn.Module, learnt: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise ModelError("the network has no parameters to train")
    trainable += learnt.parameters()
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        trainable,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
    )


def _rank(epoch: Epoch) -> tuple[float, float]:
    return epoch.validation_top1, -epoch.validation_loss
