"""Distillation as an experienced person writes it by hand in plain PyTorch: what the library is measured against."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

TEMPERATURE, ALPHA, PADDING = 4.0, 0.8, 4
OPTIMIZER = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


class Images(Dataset[tuple["Tensor", "Tensor", "Tensor"]]):
    """Images in memory, given out as whole batches: normalised, shifted and mirrored; with their numbers."""

    def __init__(self, path: Path) -> None:
        content = np.load(path)
        self.images = torch.from_numpy(content["input"]).permute(0, 3, 1, 2).contiguous()
        self.labels = torch.from_numpy(content["labels"])
        values = self.images.float() / 255
        self.mean, self.std = (found.view(1, 3, 1, 1) for found in (values.mean((0, 2, 3)), values.std((0, 2, 3))))

    def __len__(self) -> int:
        return len(self.images)

    def normalised(self, numbers: list[int]) -> Tensor:
        """Return images as they are stored."""
        return (self.images[numbers].float() / 255 - self.mean) / self.std

    def __getitem__(self, numbers: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return a batch: images, labels, numbers."""
        images = self.normalised(numbers)
        count, _, height, width = images.shape
        padded = F.pad(images, (PADDING,) * 4)
        tops, lefts = torch.randint(0, 2 * PADDING + 1, (2, count)).tolist()
        for i, (top, left) in enumerate(zip(tops, lefts, strict=True)):
            images[i] = padded[i, :, top : top + height, left : left + width]
        mirrored = torch.rand(count) < 0.5
        images[mirrored] = images[mirrored].flip(3)
        return images, self.labels[numbers], torch.tensor(numbers)


def batches(images: Images, batch_size: int) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
    """Return an epoch's shuffled batches; the last, smaller one is left out."""
    return DataLoader(images, sampler=BatchSampler(RandomSampler(images), batch_size, True), batch_size=None)


def answer(teacher: nn.Module, images: Tensor) -> Tensor:
    """Return what KD asks of the teacher: softened log-probabilities."""
    with torch.inference_mode():
        return F.log_softmax(teacher(images) / TEMPERATURE, dim=1)


def train_plainly(
    teacher: nn.Module, student: nn.Module, path: Path, *, batch_size: int, warm: int, stored: bool = False
) -> float:
    """Train for an epoch; return samples a second after the first `warm` steps.

    The teacher answers live, or was asked before, once for each image as it is stored, as people do by hand: what
    augmentation then does to an image, the answer does not know.
    """
    images = Images(path)
    loader = batches(images, batch_size)
    optimizer = torch.optim.SGD(student.parameters(), **OPTIMIZER)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(loader))
    teacher.eval()
    student.train()
    parts = torch.arange(len(images)).split(256) if stored else ()
    known = [answer(teacher, images.normalised(part.tolist())) for part in parts]
    answers = torch.cat(known) if stored else None
    start = time.perf_counter()
    for step, (inputs, labels, numbers) in enumerate(loader):
        taught = answer(teacher, inputs) if answers is None else answers[numbers]
        logits = student(inputs)
        kd = F.kl_div(F.log_softmax(logits / TEMPERATURE, dim=1), taught, reduction="batchmean", log_target=True)
        loss = ALPHA * TEMPERATURE**2 * kd + (1 - ALPHA) * F.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step == warm - 1:
            start = time.perf_counter()
    return (len(loader) - warm) * batch_size / (time.perf_counter() - start)
