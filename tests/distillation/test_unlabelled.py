"""Samples without labels in a distillation: the teacher's terms see them, cross-entropy does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgekd.distillation.cache import OtherAnswersError
from edgekd.distillation.engine import distill
from edgekd.distillation.losses.response import dkd_loss, kd_loss
from edgekd.distillation.objective import Step, TeacherObjective
from edgekd.distillation.taps import tapped
from edgekd.distillation.teacher import Answers
from edgekd.distillation.terms import build_term
from edgekd.errors import DataError, UsageError
from edgekd.models import dump_weights
from edgekd.recipe import DistillSettings
from edgekd.terms import CeTerm, ConfidenceSettings, DkdTerm, KdTerm

if TYPE_CHECKING:
    from pathlib import Path

Digits = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
LABELLED = 4
SHORT = DistillSettings(epochs=1, batch_size=16, learning_rate=0.05)


def parts(terms: list[Any], positions: list[int], confidence: ConfidenceSettings | None = None) -> Any:
    """Return the parts of a step's loss, the step, and the answers."""
    random = torch.Generator().manual_seed(0)
    answers, logits = (torch.randn(len(positions), 10, generator=random) for _ in range(2))
    step = Step(
        inputs=torch.zeros(len(positions), 1), logits=logits, labels=torch.arange(len(positions)) % 3,
        positions=torch.tensor(positions), epoch=0, share=0.0,
    )  # fmt: skip
    with tapped(torch.nn.Identity(), []) as taps:
        objective = TeacherObjective(
            [build_term(term, []) for term in terms], lambda *_: Answers(answers, ()), taps, confidence, LABELLED
        )
        return objective(step), step, answers


def test_cross_entropy_is_the_mean_over_those_with_labels() -> None:
    found, step, answers = parts([KdTerm(kind="kd"), CeTerm(kind="ce", label_smoothing=0.1)], [5, 1, 9, 3])
    known = torch.tensor([False, True, False, True])
    expected = F.cross_entropy(step.logits[known], step.labels[known], label_smoothing=0.1)
    torch.testing.assert_close(found["ce"], expected)
    torch.testing.assert_close(found["kd"], kd_loss(step.logits, answers, temperature=4.0))


@pytest.mark.parametrize("terms", [[CeTerm(kind="ce")], [CeTerm(kind="ce"), KdTerm(kind="kd")]])
def test_a_batch_without_any_label_has_no_cross_entropy(terms: list[Any]) -> None:
    found, _, _ = parts(terms, [8, 9])
    assert float(found["ce"]) == 0


def test_terms_that_need_a_label_take_the_teachers_answer() -> None:
    positions = [0, 7, 2, 8]
    found, step, answers = parts([DkdTerm(kind="dkd")], positions)
    labels = torch.where(torch.tensor(positions) < LABELLED, step.labels, answers.argmax(dim=1))
    expected = dkd_loss(step.logits, answers, labels, temperature=4.0, alpha=1.0, beta=8.0)
    torch.testing.assert_close(found["dkd"], expected)


def test_an_answer_to_an_unlabelled_sample_contradicts_no_label() -> None:
    only = ConfidenceSettings(only_correct=True)
    found, step, answers = parts([KdTerm(kind="kd")], [0, 7, 2, 8], only)
    right = (answers.argmax(dim=1) == step.labels) | torch.tensor([False, True, False, True])
    expected = kd_loss(step.logits, answers, temperature=4.0, weights=right.float())
    torch.testing.assert_close(found["kd"], expected)


def test_their_own_labels_change_nothing_and_they_do(digits: Digits, net: Any) -> None:
    train, validation = digits
    others = {"pixels": validation["input"]}

    def weights(**transfer: Any) -> bytes:
        return dump_weights(
            distill(net("resnet8x0.25", 1), net("resnet8x0.5"), train, validation, settings=SHORT, **transfer).module
        )

    assert weights(transfer=others) == weights(transfer={**others, "labels": np.zeros(32, np.int64)})
    assert weights(transfer=others) != weights()
    assert weights(transfer=others) != weights(transfer={"pixels": -validation["input"]})


def test_stored_answers_to_them_are_answers_to_other_questions(digits: Digits, net: Any, tmp_path: Path) -> None:
    train, validation = digits
    chosen = SHORT.model_copy(update={"cache": DistillSettings(cache={"views": 1}).cache})

    def run(**transfer: Any) -> None:
        distill(
            net("resnet8x0.25", 1), net("resnet8x0.5"), train, validation, settings=chosen, cache_folder=tmp_path,
            **transfer,
        )  # fmt: skip

    run(transfer={"pixels": validation["input"]})
    run(transfer={"pixels": validation["input"]})
    with pytest.raises(OtherAnswersError, match=r"answers to other questions \(data differ\)"):
        run()


def test_what_cannot_be_learnt_from_is_refused(digits: Digits, net: Any) -> None:
    train, validation = digits
    networks = net("resnet8x0.25", 1), net("resnet8x0.5")
    labels_alone = SHORT.model_copy(update={"terms": (CeTerm(kind="ce"),)})
    with pytest.raises(UsageError, match="no term of the loss reads it"):
        distill(*networks, train, validation, settings=labels_alone, transfer={"x": validation["input"]})
    with pytest.raises(DataError, match=r"samples of shape \[1, 4, 4\]"):
        distill(*networks, train, validation, settings=SHORT, transfer={"x": np.zeros((48, 1, 4, 4), np.float32)})
