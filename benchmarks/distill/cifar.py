"""CIFAR-10 as a folder of images, and a teacher of it in an ONNX file."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.data.splits import open_splits
from edgekd.data_settings import ImageFolderData
from edgekd.distillation.onnx_teacher import OnnxTeacher, adapt

if TYPE_CHECKING:
    from edgekd.data.splits import Splits

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
SPLIT_SEED = 0
VALIDATION = 1000  # only to watch: the last epoch is kept


def images(work: Path, train: int) -> Splits:
    """Return CIFAR-10, with `train` stratified training images, unpacked into `work` from the folder EDGEKD_DATA."""
    folder = work / "cifar10"
    if not folder.exists():
        data = os.environ.get("EDGEKD_DATA")
        archive = Path(data or ".") / "cifar10-imagefolder.tar.gz"
        if data is None or not archive.exists():
            sys.exit(
                f"EDGEKD_DATA must name a folder with {archive.name}: train/<class>/*.jpg and test/<class>/*.jpg"
            )
        partial = work / "cifar10.partial"
        shutil.unpack_archive(archive, partial)
        partial.rename(folder)
    settings = ImageFolderData(
        source="image-folder",
        path=folder,
        mean=MEAN,
        std=STD,
        validation=VALIDATION,
        calibration=10,
        train=train,
        crop_padding=4,
        flip=True,
    )
    return open_splits(settings, seed=SPLIT_SEED)


def teacher(path: Path, splits: Splits) -> OnnxTeacher:
    """Return the teacher of an ONNX file that takes RGB pixels / 255 and knows the classes in sorted order."""
    own = replace(splits.contract, mean=(0.0,) * 3, std=(1.0,) * 3)
    return OnnxTeacher(path, adapt(path, splits.contract, own).SerializeToString())
