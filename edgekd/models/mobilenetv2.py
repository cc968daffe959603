"""MobileNetV2 for small images.

Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018,
arXiv 1801.04381, in the variant of the distillation literature (RepDistiller's `mobile_half`, which took it from
Jin et al., "Knowledge Distillation via Route Constrained Optimization", 2019, arXiv 1904.09149): the second stage
keeps its resolution, ReLU stands for ReLU6, the first block has an expanding convolution too, and channels are cut
to whole numbers instead of rounded to multiples of 8.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from edgekd.errors import UsageError
from edgekd.models.parts import initialise, stage

if TYPE_CHECKING:
    from torch import Tensor

# (expansion, output channels at width 1, blocks, stride) of each stage: table 2 of the paper, with stride 1 in
# the second stage.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM = 32
_HEAD = 1280
_WIDTHS = (0.25, 4.0)


def _activated(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


class InvertedResidual(nn.Module):
    """Widen with 1x1, filter each channel with 3x3, narrow with 1x1 and no ReLU.

    (N, inputs, H, W) becomes (N, outputs, ceil(H / stride), ceil(W / stride)). The input is added where it has
    the output's shape.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, expansion: int) -> None:
        super().__init__()
        inner = expansion * inputs
        self.conv = nn.Sequential(
            *_activated(nn.Conv2d(inputs, inner, 1, bias=False)),
            *_activated(nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False)),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, a linear bottleneck."""
        out: Tensor = self.conv(x)
        return x + out if self.adds_input else out


def mobilenetv2(width: float, *, classes: int, channels: int) -> nn.Sequential:
    """Return a MobileNetV2: (N, channels, H, W) -> logits (N, classes).

    Features by path: `layer1` and `layer2` (H/2 x W/2), `layer3` (H/4 x W/4), `layer4` and `layer5`
    (H/8 x W/8), `layer6` and `layer7` (H/16 x W/16), all linear; `head` after a ReLU; `flatten`, the vector that
    `fc` takes. The literature distils at `layer2`, `layer3`, `layer5` and `layer7`. Every module is called once
    in a forward pass.

    Args:
        width: Multiplies all channels, cut to whole numbers; the head has 1280 for any width up to 1.
        classes: Number of logits.
        channels: Channels of the input.

    Raises:
        UsageError: the width is out of bounds.
    """
    lowest, highest = _WIDTHS
    if not lowest <= width <= highest:
        raise UsageError(f"mobilenetv2: the width must be from {lowest:g} to {highest:g}, found {width:g}")
    inputs, head = int(_STEM * width), int(_HEAD * max(width, 1.0))
    layers = OrderedDict[str, nn.Module](
        stem=nn.Sequential(*_activated(nn.Conv2d(channels, inputs, 3, stride=2, padding=1, bias=False)))
    )
    for number, (expansion, base, blocks, stride) in enumerate(_STAGES, start=1):
        block = partial(InvertedResidual, expansion=expansion)
        outputs = int(base * width)
        layers[f"layer{number}"] = stage(block, blocks, inputs, outputs, stride)
        inputs = outputs
    layers["head"] = nn.Sequential(*_activated(nn.Conv2d(inputs, head, 1, bias=False)))
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = fc = nn.Linear(head, classes)
    net = nn.Sequential(layers)
    initialise(net)
    nn.init.normal_(fc.weight, std=0.01)
    nn.init.zeros_(fc.bias)
    return net
