"""Our own students, trained on labels for a few minutes: a quantizer meets small networks otherwise than large ones.

Digits are scikit-learn's, Fashion-MNIST is the Debian package dataset-fashion-mnist, CIFAR-10 the folder of images in
EDGEKD_DATA. Seeds are fixed; the test split judges.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from study import ClassJudge, Study, save_samples

import edgekd
from edgekd.data.splits import open_splits
from edgekd.data_settings import DigitsData, IdxData, ImageFolderData
from edgekd.distillation.objective import LabelObjective
from edgekd.distillation.training import Augmentation, train_network
from edgekd.models import build
from edgekd.recipe import TrainingSettings

if TYPE_CHECKING:
    from edgekd.data.splits import Splits

TOOLS = (
    "onnxruntime defaults",
    "onnxruntime u8s8 per channel",
    "onnxruntime u8s8 per channel, reduce_range",
    "NNCF",
    "onnxsim full_qdq",
    "edgekd",
    "edgekd for x86-avx2",
    "edgekd for arm64-dotprod",
)


def digits(folder: Path) -> Study:
    """Prepare resnet8x0.5 on 8x8 digits."""
    data = DigitsData(source="digits", test=0.2, validation=0.1, calibration=0.1, crop_padding=1)
    return _study("resnet8x0.5", data, folder, epochs=30)


def fashion_mnist(folder: Path) -> Study:
    """Prepare resnet20 on Fashion-MNIST, from 12,000 images."""
    path = Path("/usr/share/datasets/fashion-mnist")
    data = IdxData(
        source="idx", path=path, train=12_000, validation=2_000, calibration=256, crop_padding=2, flip=True
    )
    return _study("resnet20", data, folder, epochs=3)


def cifar10(folder: Path) -> Study:
    """Prepare resnet8 on CIFAR-10, from 20,000 images."""
    shutil.unpack_archive(Path(os.environ["EDGEKD_DATA"]) / "cifar10-imagefolder.tar.gz", folder)
    path = next(path.parent for path in folder.rglob("train") if path.is_dir())
    data = ImageFolderData(
        source="image-folder", path=path, train=20_000, validation=2_000, calibration=256, crop_padding=4, flip=True
    )
    return _study("resnet8", data, folder, epochs=6)


STUDENTS = {"digits": digits, "fashion-mnist": fashion_mnist, "cifar10": cifar10}


def _study(model: str, data: Any, folder: Path, *, epochs: int) -> Study:
    splits = open_splits(data, seed=0)
    fp32 = folder / "student.onnx"
    edgekd.export(_trained(model, splits, data, epochs), fp32, contract=splits.contract)
    return Study(
        fp32=fp32,
        calibration=save_samples(splits.calibration, folder / "calibration.npz"),
        judge=ClassJudge(splits.test),
        timed=None,
        tools=TOOLS,
    )


def _trained(model: str, splits: Splits, data: Any, epochs: int) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(model, classes=len(splits.contract.labels), shape=splits.contract.shape)
    trained = train_network(
        network,
        splits.train,
        splits.validation,
        LabelObjective(),
        settings=TrainingSettings(epochs=epochs),
        augmentation=Augmentation(crop_padding=data.crop_padding, flip=data.flip),
        seed=0,
    )
    return trained.module
