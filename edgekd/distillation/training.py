"""The training loop: one for teachers, students and controls; what they learn from is an objective.

A killed training continues from its last checkpoint bit-exactly: the checkpoint holds weights, optimizer, torch's
random state and the position (epoch, step); the order of samples, their augmentation and the learning rate are
functions of that position.
"""

from __future__ import annotations

import copy
import io
import math
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from edgekd.artifact import rounded, write_bytes
from edgekd.data.opening import open_data
from edgekd.data.torch_data import TrainingBatches, tensor_batches
from edgekd.distillation.losses.response import distillation_loss
from edgekd.errors import DataError, ModelError, UsageError, user_code
from edgekd.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from edgekd.data.samples import Samples
    from edgekd.progress import Task
    from edgekd.recipe import DistillSettings, TrainingSettings

    # What a network learns from: (inputs, its logits, labels) -> loss, with inputs float32 (N, ...) and labels
    # int64 (N,).
    Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


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
    """Random changes of training images: shifts by up to `crop_padding` pixels, mirroring."""

    crop_padding: int = 0
    flip: bool = False


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


def distill(
    student: nn.Module,
    teacher: nn.Module,
    train: Samples | Mapping[str, NDArray[Any]],
    validation: Samples | Mapping[str, NDArray[Any]],
    *,
    settings: DistillSettings | None = None,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    title: str = "distil the student",
    progress: Progress = SILENT,
) -> Trained:
    """Train a student on the softened answers of a teacher and on the labels.

    The teacher is frozen and in eval mode meanwhile; its own state is restored afterwards. Nothing of it gets
    into the student.

    Args:
        student: Takes float32 (N, ...), gives logits (N, classes). It is trained in place.
        teacher: Likewise, with the same classes.
        train: Samples with labels: one array of inputs, and `labels`.
        validation: Chooses the best epoch.
        settings: How to train; the defaults of the recipe's `[distill]`.
        augmentation: Of the training images; none by default.
        seed: Of the order of samples and of the augmentation.
        checkpoints: Where to save and resume; by default nothing is saved.
        title: What the progress is called.
        progress: Listener.

    Raises:
        DataError: no labels, labels that are no class of the model, several inputs, or NaN in the data.
        ModelError: the models do not fit the data or each other, their code fails, or the loss is no longer finite.
        UsageError: the seed is out of range.
    """
    if settings is None:
        from edgekd.recipe import DistillSettings

        settings = DistillSettings()
    temperature, alpha = settings.temperature, settings.alpha

    def objective(inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            answers = _logits(teacher, inputs, "the teacher")
        if answers.shape != logits.shape:
            raise ModelError(
                f"the teacher's logits have shape {tuple(answers.shape)}, the student's {tuple(logits.shape)}; "
                "both must know the same classes"
            )
        return distillation_loss(logits, answers, labels, temperature=temperature, alpha=alpha)

    with _frozen(teacher), _placed(teacher, _device()):
        return train_network(
            student,
            train,
            validation,
            objective,
            settings=settings,
            augmentation=augmentation or Augmentation(),
            seed=seed,
            checkpoints=checkpoints,
            title=title,
            progress=progress,
        )


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """Return the objective of training on labels alone."""

    def objective(inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG001
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    return objective


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
    """Train a network in place on an objective; see `distill` for the arguments and errors."""
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UsageError(f"the seed must be a whole number from 0 to {2**32 - 1}, found {seed!r}")
    samples, judges = open_labelled(train), open_labelled(validation)
    loader = TrainingBatches(
        samples,
        batch_size=settings.batch_size,
        seed=seed,
        crop_padding=augmentation.crop_padding,
        flip=augmentation.flip,
        workers=settings.workers,
    )
    classes = _Classes(samples, judges)
    device = _device()
    with torch.random.fork_rng(), _placed(module, device):
        torch.manual_seed(seed)
        state = _State(module, settings)
        resumed = checkpoints is not None and state.restore(checkpoints)
        total = settings.epochs * loader.steps
        done = state.epoch * loader.steps + state.step
        if resumed:
            progress.note(f"{title}: continues at epoch {state.epoch + 1} of {settings.epochs}")
        with progress.task(title, total, done) as task:
            saver = _Saver(state, checkpoints)
            while state.epoch < settings.epochs:
                _train_epoch(state, loader, classes, objective, total, device, saver, task)
                state.finish_epoch(*_validate(module, judges, settings.batch_size, device))
                saver.save_when_due()
        with user_code("the network's load_state_dict() failed"):
            module.load_state_dict(state.best_weights)
            module.eval()
    return Trained(module=module, history=tuple(state.history), best_epoch=state.best_epoch)


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


class _State:
    """Everything that changes during a training."""

    def __init__(self, module: nn.Module, settings: TrainingSettings) -> None:
        self.module = module
        self.settings = settings
        self.optimizer = _optimizer(module, settings)
        self.epoch = 0
        self.step = 0  # within the epoch
        self.loss_sum = 0.0
        self.history: list[Epoch] = []
        self.best_epoch = -1
        self.best_weights: dict[str, Any] = {}

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

    def dump(self, key: str) -> bytes:
        buffer = io.BytesIO()
        content = {
            "key": key,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "position": [self.epoch, self.step],
            "loss_sum": self.loss_sum,
            "history": [asdict(epoch) for epoch in self.history],
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
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
        self.optimizer.load_state_dict(content["optimizer"])
        torch.set_rng_state(content["random"])
        self.epoch, self.step = content["position"]
        self.loss_sum = content["loss_sum"]
        self.history = [Epoch(**epoch) for epoch in content["history"]]
        self.best_epoch = content["best_epoch"]
        self.best_weights = content["best_weights"]
        return True


@dataclass
class _Saver:
    """Writes checkpoints when enough time has passed. When they are written does not change any result."""

    state: _State
    checkpoints: Checkpoints | None
    last: float = field(default_factory=time.monotonic)

    def save_when_due(self) -> None:
        if self.checkpoints is None or time.monotonic() - self.last < self.checkpoints.every_s:
            return
        write_bytes(self.checkpoints.path, self.state.dump(self.checkpoints.key))
        self.last = time.monotonic()


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
    for inputs, labels, _ in loader.epoch(state.epoch, state.step):
        done = state.epoch * loader.steps + state.step
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(done, total, state.settings)
        moved = inputs.to(device)
        logits = _logits(state.module, moved)
        if not logits.requires_grad:
            raise ModelError(
                "the network's logits carry no gradient, so it cannot learn: its forward() detaches them, computes "
                "them without gradients, or none of the parameters in use is trainable"
            )
        classes.check(logits)
        loss = objective(moved, logits, labels.to(device))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ModelError(
                f"training diverged: the loss is {value} at epoch {state.epoch + 1}, step {state.step + 1}; "
                "a lower learning_rate is the usual remedy"
            )
        state.optimizer.zero_grad(set_to_none=True)
        with user_code("the network's backward pass failed"):
            loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        state.step += 1
        state.loss_sum += value
        task.advance(1, f"loss {value:.3f}")
        saver.save_when_due()


@torch.no_grad()
def _validate(module: nn.Module, judges: Samples, batch_size: int, device: torch.device) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy."""
    module.eval()
    loss, correct = 0.0, 0
    for inputs, labels, _ in tensor_batches(judges, batch_size):
        logits = _logits(module, inputs.to(device)).cpu()
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        correct += int((logits.argmax(dim=1) == labels).sum())
    if not math.isfinite(loss):
        raise ModelError("training diverged: the validation loss is not finite; try a lower learning_rate")
    return loss / len(judges), correct / len(judges)


def learning_rate(step: int, total: int, settings: TrainingSettings) -> float:
    """Return the rate at a step: linear warm-up, then half a cosine to zero (Loshchilov and Hutter 2017)."""
    warmup = int(total * settings.warmup)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _optimizer(module: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise ModelError("the network has no parameters to train")
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        trainable,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
    )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _rank(epoch: Epoch) -> tuple[float, float]:
    return epoch.validation_top1, -epoch.validation_loss


def _logits(module: nn.Module, inputs: Tensor, who: str = "the network") -> Tensor:
    """Run a module, in whatever mode it is, and see that it gives logits (N, classes)."""
    with user_code(f"{who} cannot take inputs of shape {tuple(inputs.shape)}"):
        logits = module(inputs)
    if not isinstance(logits, torch.Tensor):
        raise ModelError(
            f"{who} must return one tensor of logits of shape (samples, classes), found {type(logits).__name__}"
        )
    if logits.ndim != 2 or len(logits) != len(inputs) or not logits.is_floating_point():
        raise ModelError(
            f"{who} must return floating-point logits of shape ({len(inputs)}, classes) for {len(inputs)} samples, "
            f"found {str(logits.dtype).removeprefix('torch.')} of shape {tuple(logits.shape)}"
        )
    return logits


@contextmanager
def _placed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Keep a module on the device, in channels-last order where that is safe, and give it back as it was."""
    if _safe_in_channels_last(module):
        module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        module.to(device=device)
    try:
        yield
    finally:
        module.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _safe_in_channels_last(module: nn.Module) -> bool:
    """Say whether a module may run in channels-last order, which is a third faster on CPUs.

    oneDNN's backward pass of a strided 1x1 convolution writes past its workspace in that order where a group has
    fewer input channels than a vector holds, 16 at most (github.com/uxlfoundation/oneDNN, issue 6035).
    """
    convolutions = [layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)]
    return not any(
        layer.kernel_size == (1, 1) and max(layer.stride) > 1 and layer.in_channels // layer.groups < 16
        for layer in convolutions
    )


@contextmanager
def _frozen(teacher: nn.Module) -> Iterator[None]:
    """Keep a module in eval mode without gradients, and restore it."""
    was_training = [(module, module.training) for module in teacher.modules()]
    had_gradient = [(parameter, parameter.requires_grad) for parameter in teacher.parameters()]
    teacher.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in was_training:
            module.training = training
        for parameter, gradient in had_gradient:
            parameter.requires_grad = gradient
