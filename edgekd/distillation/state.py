"""What a training is in the middle of: kept in checkpoints, and picked up again bit-exactly.

A checkpoint holds weights (of the network and of what the objective learns), optimizer, torch's random state and the
position (epoch, step). All else of a training is a function of that position.
"""

from __future__ import annotations

import copy
import io
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from edgekd.artifact import rounded, write_bytes
from edgekd.distillation.optimisation import build_optimizer
from edgekd.errors import user_code

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from edgekd.recipe import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training samples.

    Attributes:
        loss: Mean training loss.
        validation_loss: Mean cross-entropy on the validation split.
        validation_top1: Accuracy on the validation split; where classes occur together, the share of samples of which
            all are right.
    """

    loss: float
    validation_loss: float
    validation_top1: float


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


class State:
    """Everything that changes during a training."""

    def __init__(
        self, module: nn.Module, learnt: nn.Module, settings: TrainingSettings, device: torch.device
    ) -> None:
        self.module = module
        self.learnt = learnt  # by the objective
        self.settings = settings
        self.optimizer = build_optimizer(module, learnt, settings)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
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
        """Return it as a checkpoint of that key."""
        buffer = io.BytesIO()
        content = {
            "key": key,
            "module": self.module.state_dict(),
            "learnt": self.learnt.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
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

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take up what a checkpoint holds; see `read_checkpoint`.

        Raises:
            ModelError: it is of another network, or of other terms, under the same key.
        """
        with user_code("the checkpoint does not fit what is trained; delete it, or give it a key of its own"):
            self.module.load_state_dict(content["module"])
            self.learnt.load_state_dict(content["learnt"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.scaler.load_state_dict(content["scaler"])
        torch.set_rng_state(content["random"])
        self.epoch, self.step = content["position"]
        self.loss_sum = content["loss_sum"]
        self.history = [Epoch(**epoch) for epoch in content["history"]]
        self.best_epoch = content["best_epoch"]
        self.best_weights = content["best_weights"]
        self.first = content["first"]


def read_checkpoint(checkpoints: Checkpoints | None) -> dict[str, Any] | None:
    """Return a checkpoint of the same key; a missing, damaged or foreign one is left alone."""
    if checkpoints is None:
        return None
    try:
        content: dict[str, Any] = torch.load(checkpoints.path, weights_only=True, map_location="cpu")
        return content if content["key"] == checkpoints.key else None
    except Exception:  # noqa: BLE001  whatever torch finds wrong with it: training starts at the beginning
        return None


@dataclass
class Saver:
    """Writes checkpoints when enough time has passed. When they are written does not change any result."""

    state: State
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


def _rank(epoch: Epoch) -> tuple[float, float]:
    return epoch.validation_top1, -epoch.validation_loss
