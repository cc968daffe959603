"""How many threads a pass through a network is worth.

Threads wait for each other after every layer. A pass of a few milliseconds gains little by a second thread on a
machine that does nothing else, and becomes many times slower on one that does: the thread that has a core waits for
the one that has none. The number depends on the network alone, never on the moment, since it decides how sums are
rounded: a resumed training must go on with the same.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from edgekd.distillation.running import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

WORTH = 8e6
"""Floating-point operations of a layer in a pass, for each thread. On two idle cores, training residual networks,
MobileNetV2 and perceptrons in batches of 64, the second thread gave a factor of 0.9 to 1.2 at up to 5e6 operations
a layer, 1.3 to 1.5 at 10 to 17e6 and 1.6 to 1.8 from 30e6 on; on busy ones it costs far more than the least of
these gain."""
BACKWARD = 2
"""Of a backward pass, in forward passes: one for the gradients of the inputs, one for those of the weights."""


@torch.no_grad()
def threads_worth(module: nn.Module, inputs: Tensor, samples: int, *, available: int, trains: bool = False) -> int:
    """Return how many threads a pass is worth: at least one, at most those available.

    Args:
        module: It is run once in eval mode, unless one thread is available; its state is restored.
        inputs: A few samples, float32 (N, ...).
        samples: Of a pass.
        available: What torch takes by itself.
        trains: Whether there is a backward pass, too.
    """
    if available == 1 or inputs.device.type != "cpu":
        return available
    try:
        with torch.random.fork_rng(devices=()), frozen(module), FlopCounterMode(display=False) as counter:
            module(inputs)
    except Exception:  # noqa: BLE001  where a network fails is told when it is needed, not when it is weighed
        return available
    operations: float = counter.get_total_flops() / len(inputs) * samples * (1 + BACKWARD * trains)
    layers = sum(1 for layer in module.modules() if not any(layer.children()))
    return max(1, min(available, round(operations / layers / WORTH)))


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let torch compute on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
