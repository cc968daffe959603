"""A student whose inner places learn from its own last stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgekd.distillation.adapters import pooled
from edgekd.distillation.engine import check_terms, distill
from edgekd.distillation.terms import Lesson, build_term
from edgekd.errors import ModelError, RecipeError, UsageError
from edgekd.recipe import DistillSettings
from edgekd.terms import CeTerm, DeepSupervisionTerm

Digits = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
TERM = DeepSupervisionTerm(
    kind="deep-supervision", places=("a", "b"), temperature=2.0, last_stage=0.25, temperature_end=4.0
)


def test_the_loss_is_that_of_each_head_by_hand() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 4, 3, 3, generator=rng), torch.randn(6, 5, generator=rng)
    logits, labels = torch.randn(6, 3, generator=rng), torch.tensor([0, 1, 2, 2, 1, 0])
    term = build_term(TERM, [], {"a": (2, 4, 3, 3), "b": (2, 5)}, 3)
    lesson = Lesson(
        logits=logits.requires_grad_(), labels=labels, answers=logits, weights=None, pairs=[], share=0.5,
        places={"a": a, "b": b},
    )  # fmt: skip
    losses = []
    for head, vector in zip(term.children().__next__(), (a.mean(dim=(2, 3)), b), strict=True):
        inner, temperature = head(vector), 3.0  # half-way from 2 to 4
        soft = F.kl_div(
            F.log_softmax(inner / temperature, dim=1), F.softmax(logits / temperature, dim=1), reduction="batchmean"
        )
        losses.append(0.25 * temperature**2 * soft + 0.75 * F.cross_entropy(inner, labels))
    found = term(lesson)
    torch.testing.assert_close(found, (losses[0] + losses[1]) / 2)
    found.backward()
    assert logits.grad is None  # the last stage is only looked at
    assert all(parameter.grad is not None for parameter in term.parameters())


def test_features_are_averaged_over_all_but_samples_and_channels() -> None:
    assert pooled(torch.ones(2, 3, 4, 5)).shape == (2, 3)
    assert pooled(torch.ones(2, 7, 3)).shape == (2, 3)
    assert pooled(torch.ones(2, 3)).shape == (2, 3)
    with pytest.raises(ModelError, match="a head takes maps"):
        pooled(torch.ones(2, 3, 4, 5, 6))


def deep(*places: str, **changed: Any) -> DistillSettings:
    term = DeepSupervisionTerm(kind="deep-supervision", places=places)
    return DistillSettings(epochs=2, batch_size=16, learning_rate=0.05, terms=(term, CeTerm(kind="ce")), **changed)


def test_the_teacher_is_not_asked_and_no_head_stays(digits: Digits, net: Any) -> None:
    class Silent:
        fingerprint = "0"
        libraries = ()

        def ready(self, device: torch.device, taps: Any) -> Any:
            from contextlib import nullcontext

            assert not taps
            return nullcontext(self.ask)

        def ask(self, inputs: torch.Tensor, positions: torch.Tensor, epoch: int) -> Any:
            from edgekd.distillation.teacher import Answers

            assert len(inputs) == 2, "asked in a step of the training"
            return Answers(torch.zeros(2, 10), ())

    student = net("resnet8x0.25")
    names = set(student.state_dict())
    trained = distill(student, Silent(), *digits, settings=deep("layer1", "layer2"))
    assert set(trained.module.state_dict()) == names
    assert not any(child._forward_hooks for child in student.modules())
    plain = distill(net("resnet8x0.25"), Silent(), *digits, settings=deep("layer1", "layer1"))
    assert plain.history != trained.history


def test_places_are_checked_before_anything_is_trained(net: Any) -> None:
    with pytest.raises(UsageError, match="no module 'layer9'"):
        check_terms(deep("layer9"), net("resnet8x0.25"), net("resnet8x0.5"), (1, 8, 8))
    with pytest.raises(RecipeError, match="places"):
        DeepSupervisionTerm(kind="deep-supervision", places=())
