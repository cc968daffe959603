"""Several teachers that answer as one: their weights against the formulas, in every form a teacher has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from edgekd.distillation.engine import distill
from edgekd.distillation.ensemble import Teachers, confidence_weights, entropy_weights
from edgekd.distillation.onnx_teacher import OnnxTeacher
from edgekd.distillation.teacher import Answers, TorchTeacher
from edgekd.errors import ModelError, UsageError
from edgekd.recipe import DistillSettings
from edgekd.terms import CacheSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CPU = torch.device("cpu")
LOGITS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.tensor([0, 3, 1, 2, 2])


def costs_by_hand(kind: str) -> np.ndarray:
    """Return each teacher's loss, or entropy, one number at a time: shape (teachers, samples)."""
    costs = np.zeros((3, 5))
    for k, n in np.ndindex(3, 5):
        p = np.exp(LOGITS[k, n].double().numpy())
        p /= p.sum()
        costs[k, n] = -np.log(p[LABELS[n]]) if kind == "confidence" else -(p * np.log(p)).sum()
    return costs


@pytest.mark.parametrize("kind", ["confidence", "entropy"])
def test_weights_are_those_of_the_paper(kind: str) -> None:
    costs = costs_by_hand(kind)
    expected = (1 - np.exp(costs) / np.exp(costs).sum(axis=0)) / (3 - 1)
    found = confidence_weights(LOGITS, LABELS) if kind == "confidence" else entropy_weights(LOGITS)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(found.sum(dim=0), 1, rtol=1e-6)


def test_a_teacher_that_is_utterly_wrong_leaves_finite_weights() -> None:
    logits = torch.tensor([[[1000.0, 0.0]], [[0.0, 1000.0]]])
    found = confidence_weights(logits, torch.tensor([0]))
    assert torch.isfinite(found).all()
    assert float(found[0, 0]) == pytest.approx(1, abs=1e-5)


def fixed(logits: torch.Tensor, name: str) -> Any:
    """Return a teacher that gives the same logits whatever it is asked, and a feature per tap."""
    from contextlib import contextmanager

    @contextmanager
    def ready(device: torch.device, taps: Any) -> Iterator[Any]:
        yield lambda inputs, positions, epoch: Answers(
            logits[positions], tuple(torch.full((1,), ord(name)) for _ in taps)
        )

    return SimpleNamespace(fingerprint=name, libraries=["torch", name], ready=ready)


def asked(teachers: Teachers, taps: tuple[str, ...] = ()) -> Answers:
    with teachers.ready(CPU, taps) as ask:
        return ask(torch.zeros(5, 1), torch.arange(5), 0)


def test_fixed_weights_give_the_geometric_mean_of_the_distributions() -> None:
    members = [fixed(logits, name) for logits, name in zip(LOGITS, "abc", strict=True)]
    found = asked(Teachers(members, [1, 2, 5]), ("tap",))
    for temperature in (1.0, 4.0):
        product = torch.ones(5, 4)
        for share, logits in zip((1 / 8, 2 / 8, 5 / 8), LOGITS, strict=True):
            product *= F.softmax(logits / temperature, dim=1) ** share
        expected = product / product.sum(dim=1, keepdim=True)
        torch.testing.assert_close(F.softmax(found.logits / temperature, dim=1), expected)
    assert [int(feature) for feature in found.features] == [ord("a")]
    torch.testing.assert_close(asked(Teachers(members)).logits, LOGITS.mean(dim=0))
    torch.testing.assert_close(asked(Teachers(members, [0, 0, 1])).logits, LOGITS[2])


def test_sample_weights_multiply_the_fixed_ones_and_find_labels_by_position() -> None:
    members = [fixed(logits, name) for logits, name in zip(LOGITS, "abc", strict=True)]
    teachers = Teachers(members, [1, 2, 5], weighting="confidence", labels=LABELS.numpy())
    shares = torch.tensor([1.0, 2.0, 5.0])[:, None] * confidence_weights(LOGITS, LABELS)
    expected = (shares[:, :, None] * LOGITS).sum(dim=0) / shares.sum(dim=0)[:, None]
    torch.testing.assert_close(asked(teachers).logits, expected)
    with teachers.ready(CPU, ()) as ask:
        picked = torch.tensor([3, 1])
        torch.testing.assert_close(ask(torch.zeros(2, 1), picked, 0).logits, expected[picked])


def test_what_decides_the_answers_decides_the_fingerprint() -> None:
    a, b = (fixed(LOGITS[0], name) for name in "ab")
    kinds = [Teachers([a, b]), Teachers([b, a]), Teachers([a, b], [1, 2]), Teachers([a, b], weighting="entropy")]
    assert len({teachers.fingerprint for teachers in kinds}) == 4
    assert Teachers([a, b]).fingerprint == kinds[0].fingerprint
    assert kinds[0].libraries == ["a", "b", "torch"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": "a"}, "two or more teachers"),
        ({"weights": [1]}, "2 teachers, 1 weights"),
        ({"weights": [0, 0]}, "not all 0"),
        ({"weights": [-1, 2]}, "0 or more"),
        ({"weighting": "confidence"}, "held against the labels"),
        ({"weighting": "entropie"}, "one of fixed, entropy, confidence, found 'entropie'"),
    ],
)
def test_impossible_ensembles_are_refused(arguments: dict[str, Any], message: str) -> None:
    names = arguments.pop("members", "ab")
    with pytest.raises(UsageError, match=message):
        Teachers([fixed(LOGITS[0], name) for name in names], **arguments)


def test_a_sample_without_a_label_cannot_be_held_against_it() -> None:
    teachers = Teachers(
        [fixed(LOGITS[0], "a"), fixed(LOGITS[1], "b")], weighting="confidence", labels=LABELS.numpy()[:3]
    )
    with pytest.raises(UsageError, match="given 3 labels, and are asked about sample 4"):
        asked(teachers)


def test_teachers_of_other_classes_are_refused() -> None:
    with pytest.raises(ModelError, match="all must know the same classes"):
        asked(Teachers([fixed(LOGITS[0], "a"), fixed(LOGITS[0, :, :3], "b")]))


def test_torch_and_onnx_teachers_answer_together_and_are_stored(
    tmp_path: Path, net: Any, make_conv_net: Callable[..., onnx.ModelProto]
) -> None:
    rng = np.random.default_rng(0)
    images = {"input": rng.normal(size=(32, 3, 8, 8)).astype(np.float32), "labels": rng.integers(0, 4, 32)}
    onnx.save(make_conv_net(), tmp_path / "other.onnx")
    from edgekd.models import build

    module = build("resnet8x0.25", classes=4, shape=(3, 8, 8))
    teachers = Teachers(
        [TorchTeacher(module), OnnxTeacher(tmp_path / "other.onnx")], weighting="confidence", labels=images["labels"]
    )
    histories = []
    for cache in (None, CacheSettings()):
        torch.manual_seed(0)
        student = build("resnet8x0.25", classes=4, shape=(3, 8, 8))
        chosen = DistillSettings(epochs=1, batch_size=8, cache=cache)
        trained = distill(student, teachers, images, images, settings=chosen, cache_folder=tmp_path / "answers")
        histories.append(trained.history[0].loss)
    assert histories[0] == pytest.approx(histories[1], rel=1e-2)  # stored answers are rounded to float16
    assert (tmp_path / "answers" / "header.json").exists()
