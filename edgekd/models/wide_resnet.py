"""Wide ResNets with pre-activation.

Zagoruyko, Komodakis, "Wide Residual Networks", 2016, arXiv 1605.07146, without dropout, as the distillation
literature trains them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import nn

from edgekd.errors import UsageError
from edgekd.models.parts import MAX_WIDTH, blocks_per_stage, initialise, stage

if TYPE_CHECKING:
    from torch import Tensor


class PreActivationBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions, beside a shortcut.

    (N, inputs, H, W) becomes (N, outputs, ceil(H / stride), ceil(W / stride)). Where the channels change, a 1x1
    convolution of the activated input is the shortcut; elsewhere it is the input itself.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches; no ReLU follows it."""
        activated = self.relu1(self.bn1(x))
        residual: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        return residual + (x if self.projection is None else self.projection(activated))


def wide_resnet(depth: int, width: int, *, classes: int, channels: int) -> nn.Sequential:
    """Return a wide ResNet: (N, channels, H, W) -> logits (N, classes).

    The stem has 16 channels, the stages 16K, 32K and 64K. Features by path: `layer1` (H x W), `layer2`
    (H/2 x W/2) and `layer3` (H/4 x W/4), before the batch norm and ReLU that follow them; `relu` after those;
    `flatten`, the vector that `fc` takes. Every module is called once in a forward pass.

    Args:
        depth: Weighted layers, 6n+4; the projections are counted, as in the paper.
        width: The widening factor K.
        classes: Number of logits.
        channels: Channels of the input.

    Raises:
        UsageError: there is no net of that depth or width.
    """
    blocks = blocks_per_stage("wrn", depth, outside=4)
    if not 1 <= width <= MAX_WIDTH:
        raise UsageError(f"wrn: the width must be a whole number from 1 to {MAX_WIDTH}, found {width}")
    first, second, third = 16 * width, 32 * width, 64 * width
    net = nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False),
            layer1=stage(PreActivationBlock, blocks, 16, first, stride=1),
            layer2=stage(PreActivationBlock, blocks, first, second, stride=2),
            layer3=stage(PreActivationBlock, blocks, second, third, stride=2),
            bn1=nn.BatchNorm2d(third),
            relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=(fc := nn.Linear(third, classes)),
        )
    )
    initialise(net)
    nn.init.zeros_(fc.bias)
    return net
