from __future__ import annotations

import math

import pytest
import torch

from edgekd.distillation.losses.feature import attention_loss, hint_loss, vid_loss


def features(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


VARIANCE = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
LOSSES = {
    "hint": hint_loss,
    "attention": attention_loss,
    "vid": lambda s, t: vid_loss(s, t, VARIANCE.to(s.dtype)),
}
MAPS = [(4, 3, 2, 5), (4, 6, 3)]


def naive_attention(maps: torch.Tensor, power: float) -> list[list[float]]:
    """Attention of each place of each sample, at length 1."""
    places = maps.flatten(2).transpose(1, 2) if maps.ndim == 4 else maps
    found = []
    for sample in places.tolist():
        attention = [sum(abs(value) ** power for value in place) / len(place) for place in sample]
        length = math.sqrt(sum(value**2 for value in attention))
        found.append([value / length for value in attention])
    return found


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("shape", MAPS)
def test_attention_equals_its_naive_form(shape: tuple[int, ...], power: float) -> None:
    student, teacher = features(0, *shape), features(1, *shape)
    ours, theirs = naive_attention(student, power), naive_attention(teacher, power)
    squares = [(a - b) ** 2 for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
    assert float(attention_loss(student, teacher, power)) == pytest.approx(sum(squares) / len(squares))


@pytest.mark.parametrize("shape", [*MAPS, (4, 3)])
def test_vid_equals_its_naive_form(shape: tuple[int, ...]) -> None:
    """The Gaussian's negative log-likelihood without its constant, number by number."""
    student, teacher = features(0, *shape), features(1, *shape)
    channel = 1 if len(shape) != 3 else 2
    total, count = 0.0, 0
    for index in torch.cartesian_prod(*(torch.arange(extent) for extent in shape)).tolist():
        variance = math.log(1 + math.exp(float(VARIANCE[index[channel]]))) + 1e-5
        mean, value = float(student[tuple(index)]), float(teacher[tuple(index)])
        density = math.exp(-((value - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        total += -math.log(density) - math.log(2 * math.pi) / 2
        count += 1
    assert float(vid_loss(student, teacher, VARIANCE)) == pytest.approx(total / count)


def test_the_hint_equals_its_naive_form() -> None:
    student, teacher = features(0, 4, 3, 2, 5), features(1, 4, 3, 2, 5)
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    assert float(hint_loss(student, teacher)) == pytest.approx(sum((a - b) ** 2 for a, b in pairs) / student.numel())


def test_attention_knows_neither_scale_nor_channels() -> None:
    student, teacher = features(0, 4, 3, 2, 5), features(1, 4, 7, 2, 5)
    expected = float(attention_loss(student, teacher))
    assert float(attention_loss(-5 * student, teacher / 9)) == pytest.approx(expected)
    assert float(attention_loss(student.flip(1), teacher[:, torch.randperm(7)])) == pytest.approx(expected)
    assert float(attention_loss(3 * student, student)) == pytest.approx(0, abs=1e-15)


def test_the_variance_of_vid_is_learnt() -> None:
    """Its best value is the mean squared difference."""
    student, teacher = features(0, 50, 1), features(1, 50, 1) * 2
    raw = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([raw], max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = vid_loss(student, teacher, raw)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    learnt = float(torch.nn.functional.softplus(raw.detach()))
    assert learnt == pytest.approx(float(((student - teacher) ** 2).mean()), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", LOSSES)
def test_half_precision_is_computed_with_in_float32(kind: str, dtype: torch.dtype) -> None:
    student, teacher = (features(seed, 4, 3, 2, 5).to(dtype) * 300 for seed in (0, 1))
    found = LOSSES[kind](student, teacher)
    assert found.dtype == torch.float32
    assert torch.isfinite(found)
    assert float(found) == pytest.approx(float(LOSSES[kind](student.float(), teacher.float())), rel=1e-6)


@pytest.mark.parametrize("values", [(0.0, 0.0), (0.0, 1e4), (1e4, 0.0), (1e4, -1e4), (1e-30, 1.0)])
@pytest.mark.parametrize("kind", LOSSES)
def test_extremes_give_finite_losses_and_gradients(kind: str, values: tuple[float, float]) -> None:
    student = torch.full((4, 3, 2, 5), values[0], requires_grad=True)
    loss = LOSSES[kind](student, torch.full((4, 3, 2, 5), values[1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_no_gradient_reaches_the_teacher(kind: str) -> None:
    student, teacher = features(0, 4, 3, 2, 5).requires_grad_(), features(1, 4, 3, 2, 5).requires_grad_()
    LOSSES[kind](student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max() > 0
