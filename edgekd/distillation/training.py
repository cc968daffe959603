"""The training loop: one for teachers, students and controls; what they learn from is an objective.

A killed training continues from its last checkpoint bit-exactly: `state.py` keeps all that changes, and the order of
samples, their augmentation, the learning rate and the schedules of terms are functions of the position in it.
"""

from __future__ import annotations

import functools
import hashlib
import math
import operator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgekd.data.opening import open_data
from edgekd.data.torch_data import Share, TrainingBatches, Views, tensor_batches
from edgekd.distillation.losses.labels import hits, label_loss
from edgekd.distillation.objective import Step
from edgekd.distillation.optimisation import learning_rate
from edgekd.distillation.precision import Precision, check_precision, computing_in
from edgekd.distillation.processes import Processes, join
from edgekd.distillation.running import best_device, placed, run_logits
from edgekd.distillation.state import Saver, State, read_checkpoint
from edgekd.distillation.threads import on_threads, threads_worth
from edgekd.errors import DataError, DivergedError, ModelError, UsageError, user_code
from edgekd.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from edgekd.data.samples import Samples
    from edgekd.data.torch_data import TensorBatch
    from edgekd.distillation.objective import Objective
    from edgekd.distillation.state import Checkpoints, Epoch
    from edgekd.progress import Task
    from edgekd.recipe import TrainingSettings

WHOLE = ""  # the name of the whole loss among its parts
NOTHING_LEFT = "a filter of the teacher's answers (distill.confidence) that leaves none is the usual reason"
EXPLODED = 1e4  # a part of the loss that is so many times as large as at first (or its weight) will not come back


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network.

    Attributes:
        module: In eval mode on the CPU, with the weights of the epoch that is kept.
        history: Every epoch.
        best_epoch: The best one on the validation split, an index into `history`.
        kept_epoch: That one or the last, as the settings say.
        processes: How many trained it.
    """

    module: nn.Module
    history: tuple[Epoch, ...]
    best_epoch: int
    kept_epoch: int
    processes: int = 1

    def metrics(self) -> dict[str, Any]:
        """Return the figures for a card."""
        return {
            "processes": self.processes,
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
    after_epoch: Callable[[Sequence[Epoch]], None] | None = None,
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
        after_epoch: Called after each epoch; what it raises ends the training.
        title: What the progress is called.
        progress: Listener.

    Raises:
        DataError: no labels, labels that are no class of the model, several inputs, or NaN in the data.
        ModelError: the network does not fit the data, its code fails, or the training diverged: it then has the
            weights of its best epoch.
        UsageError: the seed is out of range.
    """
    samples, judges = open_labelled(train), open_labelled(validation)
    processes, device = join(), best_device()
    progress = processes.heard(progress)
    check_precision(settings.precision, device)
    loader = training_batches(samples, settings, augmentation, seed)
    learner = _Learner(module, objective, _Classes(samples, judges), settings.precision)
    with torch.random.fork_rng(), placed(module, device), placed(objective.learnt, device):
        threads = threads_worth(
            module,
            next(tensor_batches(judges, 2)).inputs,
            -(-settings.batch_size // processes.size),
            available=torch.get_num_threads(),
            trains=True,
        )
        torch.manual_seed(seed)
        state = State(module, objective.learnt, settings, device)
        saved = processes.on_main(lambda: read_checkpoint(checkpoints))
        if saved is not None:
            state.restore(saved)
            progress.note(f"{title}: continues at epoch {state.epoch + 1} of {settings.epochs}")
        work = _Work(
            state=state,
            loader=loader,
            learner=processes.connected(learner),
            weights=objective.weights,
            device=device,
            processes=processes,
            seed=None if processes.size == 1 and device.type == "cpu" else seed,
        )
        saver = Saver(state, checkpoints if processes.is_main else None, written=saved is not None)
        with on_threads(threads), progress.task(title, work.total, work.done) as task:
            _train(work, saver, judges, task, after_epoch)
        kept = _keep(state)
        if len(state.history) < settings.epochs:
            progress.note(f"{title}: stopped after epoch {len(state.history)}, the best was {state.best_epoch + 1}")
        if not any(epoch.loss for epoch in state.history):
            progress.note(f"{title}: the loss was 0 in every step, so nothing was learnt; {NOTHING_LEFT}")
        with user_code("the network's eval() failed"):
            module.eval()
    return Trained(
        module=module,
        history=tuple(state.history),
        best_epoch=state.best_epoch,
        kept_epoch=kept,
        processes=processes.size,
    )


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
        accumulate=settings.accumulate,
        share=Share(join().rank, join().size),
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
        self._columns: int | None = None  # of labels that occur together
        if len({None if s.labels is None else s.labels.shape[1:] for s in splits}) > 1:
            raise DataError(
                f"{' and '.join(samples.name for samples in splits)}: labels of different forms; all must be "
                "classes, or matrices of 0 and 1 with as many columns"
            )
        for samples in splits:
            labels = samples.labels
            if labels is not None and labels.ndim == 2:
                self._columns = labels.shape[1]
            elif labels is not None and len(labels):
                if int(labels.min()) < 0:
                    raise DataError(f"{samples.name}: labels must be 0 or more, found {int(labels.min())}")
                self.highest = max(self.highest, int(labels.max()))

    def check(self, logits: Tensor) -> None:
        """Raise a `DataError` if there is a label without a logit."""
        if self._columns not in (None, logits.shape[1]):
            raise DataError(
                f"the labels have {self._columns} columns, but the network gives {logits.shape[1]} logits"
            )
        if self.highest >= logits.shape[1]:
            raise DataError(
                f"the labels reach {self.highest}, but the network tells {logits.shape[1]} classes apart "
                f"(0 to {logits.shape[1] - 1})"
            )


class _Diverged(Exception):  # noqa: N818  it ends a training, and is told as a ModelError
    """What went wrong, and where."""


class _Learner(nn.Module):
    """A network and its objective as one module that gives the loss: what is run in a step."""

    def __init__(self, network: nn.Module, objective: Objective, classes: _Classes, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self.learnt = objective.learnt
        self._objective = objective
        self._classes = classes
        self._precision = precision

    def forward(self, inputs: Tensor, make_step: Callable[..., Step]) -> dict[str, Tensor]:
        """Return the parts of the loss; `make_step(logits=...)` gives the step."""
        with computing_in(self._precision, inputs.device):
            logits = run_logits(self.network, inputs)
        if not logits.requires_grad:
            raise ModelError(
                "the network's logits carry no gradient, so it cannot learn: its forward() detaches them, computes "
                "them without gradients, or none of the parameters in use is trainable"
            )
        self._classes.check(logits)
        return self._objective(make_step(logits=logits.float()))


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A training that is under way.

    Attributes:
        state: All that changes.
        loader: Gives the batches.
        learner: A `_Learner`, connected to those of other processes.
        weights: What the parts of the loss are multiplied by; see `Objective`.
        device: Where it runs.
        processes: Who takes part.
        seed: With the position it decides torch's random state in every batch; None: that is a single sequence, kept
            in checkpoints, as it can be in one process on one CPU.
    """

    state: State
    loader: TrainingBatches
    learner: nn.Module
    weights: Callable[[float], Mapping[str, float]]
    device: torch.device
    processes: Processes
    seed: int | None

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.state.settings.epochs * self.loader.steps

    @property
    def done(self) -> int:
        """Steps that are done."""
        return self.state.epoch * self.loader.steps + self.state.step

    @property
    def share(self) -> float:
        """The share of the training that is done."""
        return self.done / self.total


def _train(
    work: _Work, saver: Saver, judges: Samples, task: Task, after_epoch: Callable[[Sequence[Epoch]], None] | None
) -> None:
    """Train from where the state stands to the end; a diverged network gets the weights of its best epoch."""
    state = work.state
    try:
        while not state.finished:
            _train_epoch(work, saver, task)
            state.finish_epoch(*_validate(work, judges))
            if after_epoch is not None:
                after_epoch(state.history)
            saver.save_when_due()
    except _Diverged as problem:
        state.bring_back_best()
        left = work.processes.on_main(saver.last_good)
        raise DivergedError(f"training diverged: {problem}; {left}") from problem


def _keep(state: State) -> int:
    """Leave the weights of the epoch that the settings keep in the network, and return it."""
    if state.settings.keep == "best":
        state.bring_back_best()
        return state.best_epoch
    return len(state.history) - 1


def _train_epoch(work: _Work, saver: Saver, task: Task) -> None:
    state = work.state
    with user_code("the network's train() failed"):
        state.module.train()
    with closing(work.loader.epoch(state.epoch, state.step)) as batches:
        while state.step < work.loader.steps:
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(work.done, work.total, state.settings)
            state.optimizer.zero_grad(set_to_none=True)
            losses = _backward(work, batches)
            _watch(state, losses, work.weights(work.share))
            state.scaler.step(state.optimizer)
            state.scaler.update()
            state.step += 1
            state.loss_sum += losses[WHOLE]
            task.advance(1, f"loss {losses[WHOLE]:.3f}")
            saver.save_when_due()


def _backward(work: _Work, batches: Iterator[TensorBatch]) -> dict[str, float]:
    """Leave the gradients of a step in the parameters, and return its loss: the whole, and each part."""
    state, weights = work.state, work.loader.weights(work.state.step)
    told: Tensor | float = 0.0
    names: list[str] = []
    for number, (weight, batch) in enumerate(zip(weights, batches, strict=False)):
        if work.seed is not None:
            torch.manual_seed(_seed_of(work.seed, work.processes.rank, work.done, number))
        inputs = batch.inputs.to(work.device)
        make_step = functools.partial(
            Step,
            inputs=inputs,
            labels=batch.labels.to(work.device),
            positions=batch.positions,
            epoch=state.epoch,
            share=work.share,
        )
        with nullcontext() if number == len(weights) - 1 else work.processes.apart(work.learner):
            with work.processes.reached():
                parts = work.learner(inputs, make_step)
            loss = functools.reduce(operator.add, parts.values())
            with user_code("the network's backward pass failed"), work.processes.reached():
                state.scaler.scale(loss if weight == 1 else loss * weight).backward()
        names = [WHOLE, *parts]
        told = told + weight * torch.stack([loss, *parts.values()]).detach()
    assert isinstance(told, torch.Tensor)
    return dict(zip(names, work.processes.mean(told).tolist(), strict=True))


def _seed_of(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8])


def _watch(state: State, losses: Mapping[str, float], weights: Mapping[str, float]) -> None:
    """Stop a training whose loss is not finite or has exploded, and name the term.

    A part may begin at nearly nothing because its weight does: what it weighs now is as good a measure as 1.
    """
    for name, value in losses.items():
        if name == WHOLE:
            continue
        first = state.first.setdefault(name, value)
        if not math.isfinite(value) or abs(value) > EXPLODED * max(1.0, abs(first), weights.get(name, 1.0)):
            raise _Diverged(
                f"the term {name!r} of the loss is {value:g} at epoch {state.epoch + 1}, step {state.step + 1} "
                f"(at first {first:g}); a lower learning_rate, or a lower weight of that term, is the usual remedy"
            )


@torch.no_grad()
def _validate(work: _Work, judges: Samples) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy. Each process judges its share of the batches, in fp32."""
    module, processes = work.state.module, work.processes
    processes.align_buffers(module)
    module.eval()
    loss, correct = 0.0, 0
    for number, (inputs, labels, _) in enumerate(tensor_batches(judges, work.state.settings.batch_size)):
        if number % processes.size == processes.rank:
            logits = run_logits(module, inputs.to(work.device)).cpu()
            loss += float(label_loss(logits, labels)) * len(labels)
            correct += int(hits(logits, labels).sum())
    loss, correct = (sum(values) for values in zip(*processes.gathered((loss, correct)), strict=True))
    if not math.isfinite(loss):
        raise _Diverged("the validation loss is not finite; a lower learning_rate is the usual remedy")
    return loss / len(judges), correct / len(judges)
