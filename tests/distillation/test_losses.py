from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from edgekd.distillation.losses import distillation_loss, kd_loss


def logits(seed: int, samples: int = 7, classes: int = 5, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def naive_kd(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """The definition, sample by sample and class by class."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p = torch.exp(t / temperature) / torch.exp(t / temperature).sum()
        q = torch.exp(s / temperature) / torch.exp(s / temperature).sum()
        total += float((p * (p.log() - q.log())).sum())
    return temperature**2 * total / len(student)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 20))
def test_kd_equals_the_naive_form(seed: int, temperature: float) -> None:
    student, teacher = logits(seed), logits(seed + 1)
    assert float(kd_loss(student, teacher, temperature)) == pytest.approx(naive_kd(student, teacher, temperature))


def test_the_whole_loss_equals_the_usual_function() -> None:
    """Softened KL, `batchmean`, times T^2, plus cross-entropy, weighed by alpha."""
    student, teacher, temperature, alpha = logits(0).float(), logits(1).float(), 4.0, 0.8
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    soft = F.kl_div(
        F.log_softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1), reduction="batchmean"
    )
    expected = alpha * soft * temperature**2 + (1 - alpha) * F.cross_entropy(student, labels)
    found = distillation_loss(student, teacher, labels, temperature=temperature, alpha=alpha)
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


def test_a_student_that_says_the_same_has_nothing_to_learn() -> None:
    student = logits(3).requires_grad_()
    loss = kd_loss(student, logits(3), 4.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    assert float(student.grad.abs().max()) == pytest.approx(0, abs=1e-12)


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = logits(1).requires_grad_()
    student = logits(2).requires_grad_()
    kd_loss(student, teacher, 2.0).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_t_squared_keeps_the_size_of_the_gradient() -> None:
    """For high temperatures the gradient no longer depends on T (Hinton et al. 2015, section 2.1)."""
    sizes = []
    for temperature in (50.0, 100.0):
        student = logits(5).requires_grad_()
        kd_loss(student, logits(6), temperature).backward()
        assert student.grad is not None
        sizes.append(float(student.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_alpha_chooses_between_label_and_teacher(alpha: float) -> None:
    student, teacher, labels = logits(0), logits(1), torch.tensor([0, 1, 2, 3, 4, 0, 1])
    expected = kd_loss(student, teacher, 4.0) if alpha else F.cross_entropy(student, labels)
    found = distillation_loss(student, teacher, labels, temperature=4.0, alpha=alpha)
    assert float(found) == pytest.approx(float(expected))
