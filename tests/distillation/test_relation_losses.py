from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.distillation.losses.relation import (
    correlation_loss,
    pkt_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    similarity_loss,
)

LOSSES = {
    "rkd-distance": rkd_distance_loss,
    "rkd-angle": rkd_angle_loss,
    "sp": similarity_loss,
    "pkt": pkt_loss,
    "cc": correlation_loss,
}
Rows = list[list[float]]


def features(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: list[float], b: list[float]) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def huber(difference: float) -> float:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def naive_distances(rows: Rows) -> list[float]:
    found = [math.dist(a, b) for a in rows for b in rows]
    mean = sum(found) / sum(distance > 0 for distance in found)
    return [distance / mean for distance in found]


def naive_angles(rows: Rows) -> list[float]:
    found = []
    for at, i, k in itertools.product(range(len(rows)), repeat=3):
        one, other = ([x - y for x, y in zip(rows[end], rows[at], strict=True)] for end in (i, k))
        found.append(0.0 if at in (i, k) else cosine(one, other))
    return found


def naive_gram(rows: Rows) -> list[float]:
    found = []
    for a in rows:
        products = [dot(a, b) for b in rows]
        found += [product / math.sqrt(dot(products, products)) for product in products]
    return found


def naive_kernel(rows: Rows) -> list[float]:
    series = []
    for a, b in itertools.product(rows, repeat=2):
        x = 0.8 * cosine(a, b)
        series.append(math.exp(-0.8) * (1 + x + x**2 / 2))
    return series


def naive_pkt(student: Rows, teacher: Rows) -> float:
    total = 0.0
    for i in range(len(student)):
        p, q = (
            [(cosine(rows[i], rows[j]) + 1) / 2 for j in range(len(rows)) if j != i] for rows in (teacher, student)
        )
        total += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    return total / len(student)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def naive(kind: str, student: Rows, teacher: Rows) -> float:
    if kind == "pkt":
        return naive_pkt(student, teacher)
    relation = {
        "rkd-distance": naive_distances, "rkd-angle": naive_angles, "sp": naive_gram, "cc": naive_kernel,
    }[kind]  # fmt: skip
    differences = [a - b for a, b in zip(relation(student), relation(teacher), strict=True)]
    return mean([huber(d) if kind.startswith("rkd") else d**2 for d in differences])


@pytest.mark.parametrize("kind", LOSSES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_each_equals_its_naive_form(kind: str, seed: int) -> None:
    student, teacher = features(seed, 5, 4), features(seed + 1, 5, 7)
    expected = naive(kind, student.tolist(), teacher.tolist())
    assert float(LOSSES[kind](student, teacher)) == pytest.approx(expected, rel=1e-7)
    assert expected > 0


@pytest.mark.parametrize("kind", LOSSES)
def test_maps_are_taken_as_vectors(kind: str) -> None:
    student, teacher = features(0, 5, 2, 3, 4), features(1, 5, 3, 2, 2)
    expected = float(LOSSES[kind](student.flatten(1), teacher.flatten(1)))
    assert float(LOSSES[kind](student, teacher)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", LOSSES)
def test_scale_and_rotation_change_nothing(kind: str) -> None:
    student, teacher = features(0, 6, 4), features(1, 6, 5)
    turn, _ = torch.linalg.qr(features(2, 4, 4))
    expected = float(LOSSES[kind](student, teacher))
    assert float(LOSSES[kind](3 * student @ turn, teacher / 7)) == pytest.approx(expected)
    assert float(LOSSES[kind](3 * teacher, teacher)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", ["rkd-distance", "rkd-angle"])
def test_where_the_origin_lies_changes_no_distance_and_no_angle(kind: str) -> None:
    student, teacher = features(0, 6, 4), features(1, 6, 5)
    expected = float(LOSSES[kind](student, teacher))
    assert float(LOSSES[kind](student + 10, teacher - features(3, 1, 5))) == pytest.approx(expected)


@pytest.mark.parametrize("kind", LOSSES)
def test_the_order_of_samples_changes_nothing(kind: str) -> None:
    student, teacher, order = features(0, 6, 4), features(1, 6, 5), torch.tensor([3, 1, 5, 0, 2, 4])
    assert float(LOSSES[kind](student[order], teacher[order])) == pytest.approx(float(LOSSES[kind](student, teacher)))


def cases() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    few = torch.randn(6, 4)
    few[3] = few[0]
    few[4] = 0
    return {
        "zero": torch.zeros(6, 4),
        "equal rows": torch.ones(6, 4),
        "two equal rows and a zero one": few,
        "large": 1e4 * torch.randn(6, 4),
        "huge and equal": torch.full((6, 4), 1e4),
        "opposite": torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]] * 3),
    }


@pytest.mark.parametrize("teacher", cases())
@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize("kind", LOSSES)
def test_extremes_give_finite_losses_and_gradients(kind: str, case: str, teacher: str) -> None:
    student = cases()[case].requires_grad_()
    loss = LOSSES[kind](student, cases()[teacher])
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", LOSSES)
def test_half_precision_is_computed_with_in_float32(kind: str, dtype: torch.dtype) -> None:
    student, teacher = (300 * features(0, 6, 4)).to(dtype), (300 * features(1, 6, 4)).to(dtype)
    found = LOSSES[kind](student, teacher)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(LOSSES[kind](student.float(), teacher.float())), rel=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
def test_no_gradient_reaches_the_teacher(kind: str) -> None:
    student, teacher = features(0, 6, 4).requires_grad_(), features(1, 6, 4).requires_grad_()
    LOSSES[kind](student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max() > 0
