"""Running modules: where, in which mode, and what must come out of them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from edgekd.data.torch_data import tensor_batches
from edgekd.distillation.losses.labels import hits, label_loss
from edgekd.errors import ModelError, user_code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from edgekd.data.samples import Samples


def best_device() -> torch.device:
    """Return the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def placed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Keep a module on the device, in channels-last order where that is safe, and give it back as it was.

    Raises:
        ModelError: it cannot be moved, such as one that has not been run yet and does not know its shapes.
    """
    with user_code(f"the network cannot be moved to {device}"):
        if safe_in_channels_last(module):
            module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        else:
            module.to(device=device)
    try:
        yield
    finally:
        module.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def safe_in_channels_last(module: nn.Module) -> bool:
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
def frozen(module: nn.Module) -> Iterator[None]:
    """Keep a module in eval mode without gradients, and restore it."""
    was_training = [(child, child.training) for child in module.modules()]
    had_gradient = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for child, training in was_training:
            child.training = training
        for parameter, gradient in had_gradient:
            parameter.requires_grad = gradient


def run_logits(module: nn.Module, inputs: Tensor, who: str = "the network") -> Tensor:
    """Run a module, in whatever mode it is, and see that it gives logits (N, classes).

    Raises:
        ModelError: its code fails, or it gives something else.
    """
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


@torch.no_grad()
def judge(module: nn.Module, samples: Samples, batch_size: int = 256) -> tuple[float, float]:
    """Return a module's mean cross-entropy with the labels, and its accuracy."""
    loss, correct, device = 0.0, 0, best_device()
    with frozen(module), placed(module, device):
        for inputs, labels, _ in tensor_batches(samples, batch_size):
            logits = run_logits(module, inputs.to(device)).cpu()
            loss += float(label_loss(logits, labels)) * len(labels)
            correct += int(hits(logits, labels).sum())
    return loss / len(samples), correct / len(samples)


def accuracy(module: nn.Module, samples: Samples) -> float:
    """Return the share of samples that a module puts into the right class, or into all their classes."""
    return judge(module, samples)[1]
