"""What the image nets have in common: a stage of equal blocks, the depth rule, the first weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from edgekd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH = 1202  # the deepest net of He et al. 2015
MAX_WIDTH = 16


def stage(
    block: Callable[[int, int, int], nn.Module], count: int, inputs: int, outputs: int, stride: int
) -> nn.Sequential:
    """Return `count` blocks in a row; the first one changes the channels and takes the stride.

    Args:
        block: Makes one block of (input channels, output channels, stride).
        count: How many blocks.
        inputs: Channels that go in.
        outputs: Channels that come out.
        stride: Stride of the first block; (N, inputs, H, W) becomes (N, outputs, ceil(H / stride), ...).
    """
    first = block(inputs, outputs, stride)
    return nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(count - 1)))


def blocks_per_stage(family: str, depth: int, outside: int) -> int:
    """Return n of a net that has 3 stages of n blocks of 2 layers: depth = 6n + `outside`.

    Args:
        family: Name of the architecture, for the message.
        depth: Number of weighted layers.
        outside: Number of layers outside the blocks, as its paper counts them.

    Raises:
        UsageError: no net of this family has that depth.
    """
    blocks, rest = divmod(depth - outside, 6)
    if rest or not 1 <= blocks <= (MAX_DEPTH - outside) // 6:
        largest = (MAX_DEPTH - outside) // 6
        close = 6 * min(max(round((depth - outside) / 6), 1), largest) + outside
        raise UsageError(
            f"{family}: the depth must be 6n+{outside} ({6 + outside}, {12 + outside}, {18 + outside}, ... "
            f"up to {6 * largest + outside}), found {depth}; the nearest is {close}"
        )
    return blocks


def initialise(net: nn.Module) -> None:
    """Draw convolutions from N(0, 2 / fan_out) and set batch norms to scale 1 and shift 0.

    After He et al., "Delving Deep into Rectifiers", 2015, arXiv 1502.01852, in the backward form that the
    distillation literature uses. A linear layer keeps what it has.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
