"""The same training in torchdistill (Matsubara 2021), as its documentation says: a box made of a configuration.

It is given the plain loop's images and batches, so that only the loop differs.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from plain import ALPHA, OPTIMIZER, TEMPERATURE, Images, batches

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def train_with_torchdistill(
    teacher: nn.Module, student: nn.Module, path: Path, *, batch_size: int, warm: int
) -> float:
    """Train for an epoch with a live teacher; return samples a second after the first `warm` steps."""
    import_torchvision()
    from torchdistill.core.distillation import DistillationBox

    loader = batches(Images(path), batch_size)
    box = DistillationBox(teacher, student, {}, configuration(len(loader)), torch.device("cpu"), None, False, 1)
    box.teacher_model.eval()
    box.pre_epoch_process(epoch=0)
    start = time.perf_counter()
    for step, (inputs, labels, _) in enumerate(loader):
        box.pre_forward_process()
        box.post_forward_process(box.forward_process(inputs, labels))
        if step == warm - 1:
            start = time.perf_counter()
    return (len(loader) - warm) * batch_size / (time.perf_counter() - start)


def configuration(steps: int) -> dict[str, Any]:
    """Return what the plain loop does, in its own words; its `alpha` is the weight of cross-entropy."""
    places = {f"{who}_module_{key}": value for who in ("student", "teacher") for key, value in PLACE.items()}
    kd = {"key": "KDLoss", "kwargs": {**places, "temperature": TEMPERATURE, "alpha": 1 - ALPHA}}
    return {
        "num_epochs": 1,
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}}},
        "optimizer": {"key": "SGD", "kwargs": dict(OPTIMIZER)},
        "scheduler": {"key": "CosineAnnealingLR", "kwargs": {"T_max": steps}, "scheduling_step": 1},
    }


PLACE = {"path": ".", "io": "output"}


def import_torchvision() -> None:
    """Import torchvision also where its compiled part belongs to another build of torch than the installed one.

    The Python part only needs two of its operators to have a form; none of it is run here.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor"
            )
        importlib.import_module("torchvision")
