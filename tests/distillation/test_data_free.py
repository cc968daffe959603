"""Images made from a teacher: against its statistics, and what cannot be made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.distillation.data_free import require_statistics, roughness, statistics_loss, synthesise
from edgekd.distillation.onnx_teacher import OnnxTeacher
from edgekd.distillation.running import run_logits
from edgekd.errors import ModelError, UsageError
from edgekd.models import dump_weights
from edgekd.terms import SynthesisSettings

QUICK = SynthesisSettings(samples=24, batch=16, steps=300, learning_rate=0.1)


def test_the_distance_is_that_of_the_formula() -> None:
    layer = nn.BatchNorm2d(3)
    layer.running_mean, layer.running_var = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0])
    mean, variance = torch.tensor([1.0, 0.0, 3.0]), torch.tensor([3.5, 1.0, 6.0])
    assert float(statistics_loss(mean, variance, layer)) == pytest.approx(2 + 5)


def test_roughness_is_the_difference_of_neighbours() -> None:
    image = torch.tensor([[[[0.0, 1.0], [3.0, 3.0]]]])
    assert float(roughness(image)) == pytest.approx((9 + 4) / 2 + (1 + 0) / 2)
    assert float(roughness(torch.ones(4, 3))) == 0


def teacher() -> nn.Module:
    """Return a small network whose batch normalisation has seen data of mean 2 and deviation 3."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
        module.train()
        for _ in range(200):
            module(2 + 3 * torch.randn(64, 2, 6, 6))
    return module


def test_images_have_the_teachers_statistics_and_classes() -> None:
    module = teacher()
    before = dump_weights(module)
    made = synthesise(module, (2, 6, 6), settings=QUICK, seed=1)
    images = made.batch(range(24))["input"]
    assert images.dtype == np.float32
    assert images.shape == (24, 2, 6, 6)
    assert images.mean() == pytest.approx(2, abs=0.5)  # noise begins with 0 and 1
    assert images.std() == pytest.approx(3, abs=0.5)
    assert made.labels is not None
    assert made.labels.tolist() == [0, 1, 2, 3] * 6
    module.eval()
    with torch.no_grad():
        assert run_logits(module, torch.from_numpy(images)).argmax(dim=1).tolist() == made.labels.tolist()
    assert dump_weights(module) == before
    assert not any(child._forward_hooks for child in module.modules())


def test_the_seed_decides_the_images() -> None:
    quick = QUICK.model_copy(update={"steps": 2})
    first, again, other = (synthesise(teacher(), (2, 6, 6), settings=quick, seed=seed) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def untracked() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(2, 2))


@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 2), untracked], ids=["none", "untracked"])
def test_a_teacher_that_remembers_nothing_is_refused(make: Any) -> None:
    with pytest.raises(ModelError, match="no batch normalisation with running statistics"):
        synthesise(make(), (2, 1, 1), settings=QUICK)


class Unused(nn.Module):
    """Has a batch normalisation and does not use it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(72, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(inputs.flatten(1))
        return logits


def test_statistics_that_nothing_reaches_are_no_memory() -> None:
    with pytest.raises(ModelError, match="no batch normalisation of Unused runs"):
        synthesise(Unused(), (2, 6, 6), settings=QUICK)


def test_volumes_have_statistics_too() -> None:
    module = nn.Sequential(nn.BatchNorm3d(2), nn.Flatten(), nn.Linear(54, 3))
    made = synthesise(module, (2, 3, 3, 3), settings=QUICK.model_copy(update={"steps": 2}))
    assert made.batch([0])["input"].shape == (1, 2, 3, 3, 3)


def test_a_teacher_in_an_onnx_file_is_refused() -> None:
    with pytest.raises(UsageError, match="statistics folded away"):
        require_statistics(object.__new__(OnnxTeacher))


def test_images_that_are_not_finite_are_no_samples() -> None:
    module = teacher()
    with torch.no_grad():
        module[4].weight.fill_(3e38)  # type: ignore[operator, union-attr]
    with pytest.raises(ModelError, match="NaN or infinity"):
        synthesise(module, (2, 6, 6), settings=QUICK)
