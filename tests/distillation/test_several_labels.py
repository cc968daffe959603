"""Classes that occur together: labels as a matrix of 0 and 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from edgekd import evaluate, metrics, quantize
from edgekd.data import ArraySamples
from edgekd.distillation.engine import distill
from edgekd.distillation.losses.labels import hits, label_loss
from edgekd.distillation.objective import LabelObjective
from edgekd.distillation.running import accuracy
from edgekd.distillation.training import Augmentation, train_network
from edgekd.errors import DataError
from edgekd.models import build
from edgekd.recipe import DistillSettings
from edgekd.terms import CeTerm, ConfidenceSettings, DkdTerm, SigmoidKdTerm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Arrays = dict[str, np.ndarray]


def test_the_loss_is_that_of_every_class_by_hand() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (6, 3)), rng.integers(0, 2, (6, 3))
    total = 0.0
    for n, c in np.ndindex(6, 3):
        yes = 1 / (1 + np.exp(-logits[n, c]))
        target = 0.9 * labels[n, c] + 0.05
        total -= target * np.log(yes) + (1 - target) * np.log(1 - yes)
    found = label_loss(torch.tensor(logits), torch.tensor(labels), label_smoothing=0.1)
    assert float(found) == pytest.approx(total / 6, rel=1e-9)


def test_one_class_each_is_the_usual_cross_entropy() -> None:
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.equal(label_loss(logits, labels, 0.1), F.cross_entropy(logits, labels, label_smoothing=0.1))
    assert torch.equal(hits(logits, labels), logits.argmax(dim=1) == labels)


def test_a_sample_is_right_where_all_of_its_classes_are() -> None:
    logits = torch.tensor([[2.0, -1.0], [2.0, 1.0], [-3.0, -1.0]])
    assert hits(logits, torch.tensor([[1, 0], [1, 0], [0, 0]])).tolist() == [True, False, True]


@pytest.fixture
def halves() -> tuple[Arrays, Arrays]:
    """Return images whose three halves may be bright at once: left, right, top."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (160, 3))
    images = rng.normal(0, 0.3, (160, 1, 8, 8)).astype(np.float32)
    images[:, 0, :, :4] += labels[:, 0, None, None]
    images[:, 0, :, 4:] += labels[:, 1, None, None]
    images[:, 0, :4] += 3 * labels[:, 2, None, None]
    arrays = {"input": images, "labels": labels}
    first, second = ({key: value[part] for key, value in arrays.items()} for part in (slice(0, 96), slice(96, 160)))
    return first, second


def net(seed: int) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build("mlp-16", classes=3, shape=(1, 8, 8))


def test_a_student_learns_what_occurs_together_from_a_teacher_and_from_labels(halves: tuple[Arrays, Arrays]) -> None:
    chosen = DistillSettings(
        epochs=20,
        batch_size=16,
        learning_rate=0.02,
        terms=(SigmoidKdTerm(kind="sigmoid-kd"), CeTerm(kind="ce")),
    )
    teacher = train_network(net(0), *halves, LabelObjective(), settings=chosen, augmentation=Augmentation(), seed=0)
    student = distill(net(1), teacher.module, *halves, settings=chosen)
    found = student.history[student.best_epoch].validation_top1
    assert found > 0.6  # 1/8 by chance
    assert accuracy(student.module, ArraySamples(halves[1])) == pytest.approx(found, abs=1e-5)


def test_transfer_samples_teach_what_occurs_together_without_labels(halves: tuple[Arrays, Arrays]) -> None:
    chosen = DistillSettings(epochs=1, terms=(SigmoidKdTerm(kind="sigmoid-kd"), CeTerm(kind="ce")))
    assert distill(net(1), net(0), *halves, transfer={"input": halves[1]["input"]}, settings=chosen).history
    logits, labels = torch.randn(4, 3), torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])
    first_two = torch.tensor([True, True, False, False])
    torch.testing.assert_close(label_loss(logits, labels, labelled=first_two), label_loss(logits[:2], labels[:2]))


def one_class(part: Arrays) -> Arrays:
    return {**part, "labels": part["labels"][:, 0]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"terms": (DkdTerm(kind="dkd"),)}, "the term 'dkd' must know the one class"),
        ({"confidence": ConfidenceSettings(only_correct=True)}, "confidence.only_correct must know the one class"),
    ],
)
def test_terms_that_ask_for_the_one_class_are_refused(
    halves: tuple[Arrays, Arrays], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        distill(net(1), net(0), *halves, settings=DistillSettings(epochs=1, **changed))


def test_labels_of_different_forms_or_widths_are_refused(halves: tuple[Arrays, Arrays]) -> None:
    train, validation = halves
    chosen = DistillSettings(epochs=1)
    with pytest.raises(DataError, match="labels of different forms"):
        distill(net(1), net(0), train, one_class(validation), settings=chosen)
    wide = [{**part, "labels": np.hstack([part["labels"]] * 2)} for part in halves]
    with pytest.raises(DataError, match="the labels have 6 columns, but the network gives 3 logits"):
        distill(net(1), net(0), *wide, settings=chosen)


@pytest.mark.parametrize("value", [2, -1])
def test_a_matrix_holds_0_and_1_only(halves: tuple[Arrays, Arrays], value: int) -> None:
    halves[0]["labels"][7, 1] = value
    with pytest.raises(DataError, match="0 and 1 only, one column for each class; sample 7 does not"):
        ArraySamples(halves[0])


def test_where_each_sample_must_have_one_class_it_is_said(
    tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray
) -> None:
    data = {"input": images, "labels": np.ones((64, 4), np.int64)}
    onnx.save(make_conv_net(), tmp_path / "net.onnx")
    with pytest.raises(DataError, match="only distillation by arrays"):
        evaluate(tmp_path / "net.onnx", data)
    with pytest.raises(DataError, match="only distillation by arrays"):
        quantize(tmp_path / "net.onnx", {"input": images}, None, evaluation=data)
    with pytest.raises(DataError, match="one label for each sample"):
        metrics.top1(np.zeros((64, 4)), data["labels"])
