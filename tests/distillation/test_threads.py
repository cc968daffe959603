"""How many threads a network is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from edgekd import distill
from edgekd.distillation.teacher import TorchTeacher
from edgekd.distillation.threads import WORTH, on_threads, threads_worth
from edgekd.recipe import DistillSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

INPUTS = torch.zeros(2, 100)


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    """Let torch take four threads, as on a machine with four cores."""
    with on_threads(4):
        yield


class Watched(nn.Module):
    """A linear classifier of two classes that notes the number of threads of each pass."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, 2)
        self.seen: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits."""
        self.seen.append(torch.get_num_threads())
        logits: Tensor = self.layer(inputs)
        return logits


def samples_worth(threads: float) -> int:
    """Return so many samples that their forward pass through `Linear(100, 100)` is worth so many threads."""
    return round(threads * WORTH / (2 * 100 * 100))


@pytest.mark.parametrize(("worth", "threads"), [(0.01, 1), (1.4, 1), (1.6, 2), (2.6, 3), (100, 4)])
def test_a_thread_for_so_many_operations_and_never_more_than_there_are(worth: float, threads: int) -> None:
    assert threads_worth(nn.Linear(100, 100), INPUTS, samples_worth(worth), available=4) == threads


def test_threads_wait_after_every_layer_so_more_layers_need_more_work() -> None:
    layers = nn.Sequential(nn.Linear(100, 100), *[nn.ReLU()] * 3)
    assert threads_worth(layers, INPUTS, samples_worth(2), available=4) == 1
    assert threads_worth(layers, INPUTS, samples_worth(8), available=4) == 4


def test_a_backward_pass_counts_twice() -> None:
    assert threads_worth(nn.Linear(100, 100), INPUTS, samples_worth(1), available=4, trains=True) == 3


def test_a_network_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.BatchNorm1d(100), nn.Dropout(), nn.Linear(100, 100))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    threads_worth(module, torch.ones(2, 100), 64, available=4)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(child.training for child in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_network_that_cannot_be_run_so_keeps_what_torch_takes() -> None:
    assert threads_worth(nn.Linear(3, 3), INPUTS, 1, available=4) == 4


def test_where_torch_takes_one_thread_the_network_is_not_run() -> None:
    module = Watched(100)
    assert threads_worth(module, INPUTS, 10**9, available=1) == 1
    assert module.seen == []


def test_a_small_teacher_answers_on_one_thread() -> None:
    module = Watched(100)
    with TorchTeacher(module).ready(torch.device("cpu"), []) as ask:
        ask(INPUTS, torch.arange(2), 0)
    assert module.seen[-1] == 1
    assert torch.get_num_threads() == 4


def test_a_small_student_trains_on_one_thread_and_the_callers_number_comes_back() -> None:
    student, teacher = Watched(8), Watched(8)
    data = {"input": np.eye(8, dtype=np.float32), "labels": np.arange(8) % 2}
    distill(student, teacher, data, data, settings=DistillSettings(epochs=1, batch_size=4))
    weighed, *passes = student.seen
    assert weighed == 4
    assert set(passes) == {1}
    assert torch.get_num_threads() == 4


def test_a_large_teacher_keeps_its_threads_beside_a_small_student() -> None:
    teacher = nn.Sequential(nn.Linear(8, 3000), nn.Linear(3000, 3000), Watched(3000))
    data = {"input": np.eye(8, dtype=np.float32), "labels": np.arange(8) % 2}
    student = Watched(8)
    distill(student, teacher, data, data, settings=DistillSettings(epochs=1, batch_size=8))
    assert student.seen[-1] == 1
    weighed, *passes = teacher[2].seen
    assert weighed == 1
    assert set(passes) == {4}
