"""ResNets for small images.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385, section 4.2, with the
projection shortcuts and the four times wider variants (`resnet8x4`, `resnet32x4`) of the distillation literature:
Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2019, arXiv 1910.10699. Parameters carry the
names they have in that paper's code (RepDistiller) and in mdistiller, so checkpoints of those load here.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import nn

from edgekd.errors import UsageError
from edgekd.models.parts import MAX_WIDTH, blocks_per_stage, initialise, stage

if TYPE_CHECKING:
    from torch import Tensor


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    (N, inputs, H, W) becomes (N, outputs, ceil(H / stride), ceil(W / stride)). The input of `relu2` is the
    pre-activation feature that some distillation losses take.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, after its last ReLU."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(residual + self.downsample(x))
        return out


def widths(multiplier: float) -> tuple[int, int, int, int]:
    """Return the channels of the stem and of the three stages.

    The stages have 16K, 32K and 64K channels. The stem has 16 sqrt(K), rounded to a multiple of 4, and never
    more than the first stage: 16 for K = 1 and 32 for K = 4 as in the literature, 24 for K = 2, 8 for K = 0.5,
    4 for K = 0.25. K is a multiple of 0.125; one of 0.25 keeps all channels multiples of 4, which INT8 kernels
    of most targets take four at a time.

    Raises:
        UsageError: K is none of these.
    """
    if multiplier % 0.125 or not 0 < multiplier <= MAX_WIDTH:
        raise UsageError(
            f"resnet: the width must be a multiple of 0.125 from 0.125 to {MAX_WIDTH}, found {multiplier:g}"
        )
    first = int(16 * multiplier)
    stem = min(first, 4 * round(4 * math.sqrt(multiplier)))
    return stem, first, 2 * first, 4 * first


def resnet(depth: int, width: float, *, classes: int, channels: int) -> nn.Sequential:
    """Return a ResNet: (N, channels, H, W) -> logits (N, classes).

    Features by path: `layer1` (H x W), `layer2` (H/2 x W/2) and `layer3` (H/4 x W/4), all after a ReLU, and
    `flatten`, the vector that `fc` takes. Every module is called once in a forward pass.

    Args:
        depth: Weighted layers, 6n+2; projections are not counted.
        width: The multiplier K of `widths`.
        classes: Number of logits.
        channels: Channels of the input.

    Raises:
        UsageError: there is no net of that depth or width.
    """
    blocks = blocks_per_stage("resnet", depth, outside=2)
    stem, first, second, third = widths(width)
    net = nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(channels, stem, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(stem),
            relu=nn.ReLU(),
            layer1=stage(BasicBlock, blocks, stem, first, stride=1),
            layer2=stage(BasicBlock, blocks, first, second, stride=2),
            layer3=stage(BasicBlock, blocks, second, third, stride=2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(third, classes),
        )
    )
    initialise(net)
    return net
