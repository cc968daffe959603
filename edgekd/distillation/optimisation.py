"""How weights move: the optimizer, and its rate at every step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from edgekd.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from edgekd.recipe import TrainingSettings


def learning_rate(step: int, total: int, settings: TrainingSettings) -> float:
    """Return the rate at a step: linear warm-up, then half a cosine to zero (Loshchilov and Hutter 2017)."""
    warmup = int(total * settings.warmup)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def build_optimizer(module: nn.Module, learnt: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Return the optimizer of a network and of what its objective learns.

    Raises:
        ModelError: the network has nothing to train.
    """
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
