from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from edgekd.distillation.losses.response import (
    confidence_weights,
    dist_loss,
    dkd_loss,
    jensen_shannon_loss,
    kd_loss,
    reverse_kl_loss,
    sigmoid_kd_loss,
    standardised_kd_loss,
)

LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1])
WEIGHTS = torch.tensor([1.0, 0.0, 0.5, 0.25, 1.0, 0.75, 0.125], dtype=torch.float64)
LOSSES = {
    "kd": lambda s, t, w=None: kd_loss(s, t, 3.0, w),
    "reverse-kl": lambda s, t, w=None: reverse_kl_loss(s, t, 3.0, w),
    "js": lambda s, t, w=None: jensen_shannon_loss(s, t, 3.0, 0.3, w),
    "dkd": lambda s, t, w=None: dkd_loss(s, t, LABELS, temperature=3.0, alpha=1.5, beta=2.5, weights=w),
    "dist": lambda s, t, w=None: dist_loss(s, t, temperature=3.0, beta=1.5, gamma=2.5, weights=w),
    "lskd": lambda s, t, w=None: standardised_kd_loss(s, t, 3.0, w),
    "sigmoid-kd": lambda s, t, w=None: sigmoid_kd_loss(s, t, 3.0, w),
}


def logits(seed: int, samples: int = 7, classes: int = 5, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def softmax(values: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def pearson(a: list[float], b: list[float], w: list[float]) -> float:
    mean_a, mean_b = (sum(x * y for x, y in zip(v, w, strict=True)) / sum(w) for v in (a, b))
    top = sum(z * (x - mean_a) * (y - mean_b) for x, y, z in zip(a, b, w, strict=True))
    below = [sum(z * (x - m) ** 2 for x, z in zip(v, w, strict=True)) for v, m in ((a, mean_a), (b, mean_b))]
    return top / math.sqrt(below[0] * below[1])


def naive(kind: str, s: list[float], t: list[float], label: int) -> float:
    """One sample's loss at temperature 3, from the definition, class by class."""
    p, q = softmax(t, 3.0), softmax(s, 3.0)
    if kind == "kd":
        return 9 * divergence(p, q)
    if kind == "reverse-kl":
        return 9 * divergence(q, p)
    if kind == "js":
        m = [0.3 * a + 0.7 * b for a, b in zip(p, q, strict=True)]
        return 9 * (0.3 * divergence(p, m) + 0.7 * divergence(q, m))
    if kind == "dkd":
        target = divergence([p[label], 1 - p[label]], [q[label], 1 - q[label]])
        rest = [i for i in range(len(p)) if i != label]
        others = divergence([p[i] / (1 - p[label]) for i in rest], [q[i] / (1 - q[label]) for i in rest])
        return 9 * (1.5 * target + 2.5 * others)
    if kind == "dist":
        return 9 * 1.5 * (1 - pearson(p, q, [1.0] * len(p)))
    if kind == "lskd":
        scaled = [[(x - statistics.mean(v)) / statistics.stdev(v) for x in v] for v in (t, s)]
        return 9 * divergence(softmax(scaled[0], 3.0), softmax(scaled[1], 3.0))
    assert kind == "sigmoid-kd"
    total = 0.0
    for a, b in zip(t, s, strict=True):
        x, y = (1 / (1 + math.exp(-value / 3)) for value in (a, b))
        total += divergence([x, 1 - x], [y, 1 - y])
    return 9 * total


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", LOSSES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_each_equals_its_naive_form(kind: str, weighted: bool, seed: int) -> None:
    student, teacher = logits(seed), logits(seed + 1)
    weights = WEIGHTS.tolist() if weighted else [1.0] * 7
    rows = zip(student.tolist(), teacher.tolist(), LABELS.tolist(), weights, strict=True)
    expected = sum(w * naive(kind, s, t, label) for s, t, label, w in rows) / 7
    if kind == "dist":
        p, q = ([softmax(row, 3.0) for row in values.tolist()] for values in (teacher, student))
        columns = [pearson([r[c] for r in p], [r[c] for r in q], weights) for c in range(5)]
        expected += 9 * 2.5 * statistics.mean(1 - column for column in columns)
    found = LOSSES[kind](student, teacher, WEIGHTS if weighted else None)
    assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_student_that_says_the_same_has_nothing_to_learn(kind: str) -> None:
    student = logits(3).requires_grad_()
    loss = LOSSES[kind](student, logits(3))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    assert float(student.grad.abs().max()) == pytest.approx(0, abs=1e-7)
    assert float(LOSSES[kind](logits(4), logits(3))) > 0


@pytest.mark.parametrize("kind", LOSSES)
def test_no_gradient_reaches_the_teacher(kind: str) -> None:
    teacher = logits(1).requires_grad_()
    student = logits(2).requires_grad_()
    LOSSES[kind](student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", LOSSES)
def test_half_precision_is_computed_with_in_float32(kind: str, dtype: torch.dtype) -> None:
    student, teacher = logits(0).to(dtype), logits(1).to(dtype)
    found = LOSSES[kind](student, teacher)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(LOSSES[kind](student.float(), teacher.float())), rel=1e-6)


EXTREMES = {
    "opposite": ([1e4, -1e4, 0.0, 0.0, 0.0], [-1e4, 1e4, 0.0, 0.0, 0.0]),
    "label away": ([-1e4, 0.0, 0.0, 0.0, 1e4], [1e4, 0.0, 0.0, 0.0, -1e4]),
    "student flat": ([0.0] * 5, [1e4, -1e4, 1.0, 2.0, 3.0]),
    "teacher flat": ([1e4, -1e4, 1.0, 2.0, 3.0], [0.0] * 5),
    "both flat": ([2.0] * 5, [2.0] * 5),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("rows", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("kind", LOSSES)
def test_extremes_give_finite_losses_and_gradients(
    kind: str, rows: tuple[list[float], list[float]], dtype: torch.dtype
) -> None:
    """Seven equal rows, with whatever label: also the columns of a class do not differ."""
    student, teacher = (torch.tensor([row] * 7).to(dtype) for row in rows)
    student.requires_grad_()
    loss = LOSSES[kind](student, teacher)
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("kind", [kind for kind in LOSSES if kind != "sigmoid-kd"])
def test_what_is_added_to_all_logits_of_a_sample_changes_nothing(kind: str) -> None:
    student, teacher, shift = logits(0), logits(1), torch.arange(7.0, dtype=torch.float64)[:, None]
    expected = float(LOSSES[kind](student, teacher))
    assert float(LOSSES[kind](student + shift, teacher - 2 * shift)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", [kind for kind in LOSSES if kind != "dkd"])
def test_the_order_of_classes_and_of_samples_changes_nothing(kind: str) -> None:
    student, teacher = logits(0), logits(1)
    expected = float(LOSSES[kind](student, teacher))
    turned = float(LOSSES[kind](student.flip(0, 1), teacher.flip(0, 1)))
    assert turned == pytest.approx(expected)


def test_standardised_logits_have_no_scale() -> None:
    student, teacher = logits(0), logits(1)
    expected = float(standardised_kd_loss(student, teacher, 2.0))
    assert float(standardised_kd_loss(5 * student - 1, teacher / 7 + 3, 2.0)) == pytest.approx(expected)


def test_decoupled_kd_with_the_coupling_of_kd_is_kd() -> None:
    """`KD = TCKD + (1 - p[label]) NCKD`, the identity that the paper begins with."""
    for row in range(7):
        student, teacher, labels = logits(0)[row : row + 1], logits(1)[row : row + 1], LABELS[row : row + 1]
        label = float(F.softmax(teacher / 4, dim=1)[0, labels[0]])
        found = dkd_loss(student, teacher, labels, temperature=4.0, alpha=1.0, beta=1 - label)
        assert float(found) == pytest.approx(float(kd_loss(student, teacher, 4.0)))


def test_jensen_shannon_is_bounded_and_symmetric() -> None:
    student, teacher = torch.eye(5) * 50, torch.eye(5).flip(0) * 50
    student[2], teacher[2] = student[0], teacher[0]
    found = float(jensen_shannon_loss(student, teacher, 1.0))
    assert found == pytest.approx(float(jensen_shannon_loss(teacher, student, 1.0)))
    assert found == pytest.approx(math.log(2))


def test_two_classes_leave_nothing_to_share_out() -> None:
    student, teacher = logits(0, classes=2), logits(1, classes=2)
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0])
    found = dkd_loss(student, teacher, labels, temperature=4.0, alpha=1.0, beta=8.0)
    assert float(found) == pytest.approx(float(kd_loss(student, teacher, 4.0)))


def test_confidence_decides_whose_answers_count() -> None:
    sure, unsure = [9.0, 0.0, 0.0], [0.5, 0.0, 0.0]
    teacher = torch.tensor([sure, sure, unsure])
    labels = torch.tensor([0, 1, 0])
    confidence = F.softmax(teacher, dim=1)[:, 0]
    assert confidence_weights(teacher, None).tolist() == [1, 1, 1]
    assert confidence_weights(teacher, labels).tolist() == [1, 0, 1]
    assert confidence_weights(teacher, None, threshold=0.9).tolist() == [1, 1, 0]
    assert confidence_weights(teacher, labels, threshold=0.9).tolist() == [1, 0, 0]
    soft = confidence_weights(teacher, labels, soft=True)
    assert soft.tolist() == pytest.approx([float(confidence[0]), 0, float(confidence[2])])


def test_kd_is_what_torchs_own_divergence_gives_to_the_last_bit() -> None:
    student, teacher = logits(0).float(), logits(1).float()
    own = F.kl_div(
        F.log_softmax(student / 4, dim=1), F.log_softmax(teacher / 4, dim=1), reduction="batchmean", log_target=True
    )
    assert torch.equal(kd_loss(student, teacher, 4.0), own * 16)


def test_t_squared_keeps_the_size_of_the_gradient() -> None:
    """For high temperatures the gradient no longer depends on T (Hinton et al. 2015, section 2.1)."""
    sizes = []
    for temperature in (50.0, 100.0):
        student = logits(5).requires_grad_()
        kd_loss(student, logits(6), temperature).backward()
        assert student.grad is not None
        sizes.append(float(student.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
