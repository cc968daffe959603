"""Multilayer perceptrons, for arrays and as the plainest baseline for images."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import nn

from edgekd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_HIDDEN = 65536


def mlp(hidden: Sequence[int], *, classes: int, shape: tuple[int, ...]) -> nn.Sequential:
    """Return a perceptron with ReLU: (N, *shape) -> logits (N, classes).

    Features by path: `layer1`, `layer2`, ..., one for each hidden layer, after its ReLU. Weights are drawn as
    `torch.nn.Linear` draws them.

    Args:
        hidden: Width of each hidden layer.
        classes: Number of logits.
        shape: Shape of one sample; it is flattened.

    Raises:
        UsageError: a width is out of bounds.
    """
    layers = OrderedDict[str, nn.Module](flatten=nn.Flatten())
    inputs = math.prod(shape)
    for number, outputs in enumerate(hidden, start=1):
        if not 1 <= outputs <= MAX_HIDDEN:
            raise UsageError(f"mlp: a hidden width must be from 1 to {MAX_HIDDEN}, found {outputs}")
        layers[f"layer{number}"] = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())
        inputs = outputs
    layers["fc"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)
