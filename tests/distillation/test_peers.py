"""Students that train together: against a loop by hand, and which of them is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgekd.data import ArraySamples
from edgekd.data.torch_data import TrainingBatches
from edgekd.distillation.engine import distill
from edgekd.distillation.optimisation import learning_rate
from edgekd.distillation.peers import best_of
from edgekd.distillation.running import judge
from edgekd.distillation.state import Epoch
from edgekd.distillation.teacher import TorchTeacher
from edgekd.distillation.training import Trained
from edgekd.errors import RecipeError, UsageError
from edgekd.models import dump_weights
from edgekd.recipe import DistillSettings
from edgekd.terms import CeTerm, HintTerm, KdTerm, MutualTerm, TapSettings

Digits = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
MUTUAL = (CeTerm(kind="ce"), MutualTerm(kind="mutual", temperature=2.0))


def settings(**changed: Any) -> DistillSettings:
    usual = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, "peers": 3, "terms": MUTUAL, "keep": "last"}
    return DistillSettings(**{**usual, **changed})


def test_three_students_learn_as_in_a_loop_by_hand(digits: Digits, net: Any) -> None:
    chosen = settings()
    found = [net("resnet8x0.25", seed) for seed in range(3)]
    trained = distill(found[0], net("resnet8x0.5"), *digits, peers=found[1:], settings=chosen)
    nets = [net("resnet8x0.25", seed).train() for seed in range(3)]
    optimizers = [
        torch.optim.SGD(one.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=chosen.weight_decay)
        for one in nets
    ]
    batches, losses = TrainingBatches(ArraySamples(digits[0]), batch_size=16, seed=0), []
    for epoch in range(2):
        total = 0.0
        for number, batch in enumerate(batches.epoch(epoch)):
            logits = [one(batch.inputs) for one in nets]
            for i, optimizer in enumerate(optimizers):
                optimizer.param_groups[0]["lr"] = learning_rate(epoch * 3 + number, 6, chosen)
                loss = F.cross_entropy(logits[i], batch.labels)
                for j in {0, 1, 2} - {i}:
                    soft = F.kl_div(
                        F.log_softmax(logits[i] / 2, dim=1),
                        F.softmax(logits[j].detach() / 2, dim=1),
                        reduction="batchmean",
                    )
                    loss = loss + 4 * soft / 2
                total += float(loss.detach())
                optimizer.zero_grad()
                loss.backward()
            for optimizer in optimizers:
                optimizer.step()
        losses.append(total / 3)
    assert [epoch.loss for epoch in trained.history] == pytest.approx(losses, rel=1e-3)
    for ours, theirs in zip(found, nets, strict=True):
        torch.testing.assert_close(
            dict(ours.named_parameters()), dict(theirs.named_parameters()), rtol=1e-2, atol=1e-3
        )


def test_the_teacher_is_asked_once_for_all_and_everyone_learns_features(digits: Digits, net: Any) -> None:
    calls: list[int] = []
    teacher = net("resnet8x0.5")
    teacher.register_forward_pre_hook(lambda *_: calls.append(1))
    chosen = settings(
        epochs=1,
        peers=2,
        terms=(KdTerm(kind="kd"), HintTerm(kind="hint"), MutualTerm(kind="mutual")),
        taps=TapSettings(pairs=(("layer2", "layer2"),)),
    )
    students = [net("resnet8x0.25", seed) for seed in range(2)]
    before = [dump_weights(student) for student in students]
    names = set(students[0].state_dict())
    trained = distill(students[0], TorchTeacher(teacher, "0"), *digits, peers=students[1:], settings=chosen)
    assert len(calls) == 1 + 3  # a dry run, and a batch a step
    assert set(trained.module.state_dict()) == names
    for student, first in zip(students, before, strict=True):
        assert dump_weights(student) != first
        assert not any(child._forward_hooks for child in student.modules())


def test_the_best_on_validation_is_kept(digits: Digits, net: Any) -> None:
    samples = ArraySamples(digits[1])
    good, poor = net("resnet8x0.25", 0), net("resnet8x0.25", 1)
    distill(good, net("resnet8x0.5"), digits[1], digits[1], settings=settings(epochs=8, peers=1, terms=(MUTUAL[0],)))
    loss, top1 = judge(good, samples)
    _, worse = judge(poor, samples)
    assert top1 > worse
    epoch = Epoch(loss=1.0, validation_loss=9.0, validation_top1=worse)
    trained = Trained(module=poor, history=(epoch, epoch), best_epoch=0, kept_epoch=0)
    found = best_of(trained, [net("resnet8x0.25", 1), good], samples)
    assert found.module is good
    assert (found.kept_epoch, found.best_epoch) == (1, 1)
    assert found.metrics()["validation_top1"] == pytest.approx(top1, rel=1e-5)
    assert found.history[1].validation_loss == pytest.approx(loss, rel=1e-5)
    kept = replace(trained, module=good, history=(replace(epoch, validation_top1=1.0, validation_loss=0.0),) * 2)
    assert best_of(kept, [good, poor], samples) is kept


def test_networks_that_share_parameters_are_refused(digits: Digits, net: Any) -> None:
    one, other, teacher = net("resnet8x0.25", 0), net("resnet8x0.25", 1), net("resnet8x0.25", 2)
    for peers, taught_by in (([one], teacher), ([other], one), ([other], other)):
        with pytest.raises(UsageError, match="teacher, student and peers share parameters"):
            distill(one, taught_by, *digits, peers=peers, settings=settings(peers=2))
    teacher.layer1.requires_grad_(False)
    one.layer1 = teacher.layer1
    distill(one, teacher, *digits, peers=[other], settings=settings(epochs=1, peers=2))


def test_peers_and_their_term_go_together(digits: Digits, net: Any) -> None:
    with pytest.raises(RecipeError, match="set peers = 2 or more"):
        settings(peers=1)
    with pytest.raises(RecipeError, match="none of the terms is 'mutual'"):
        settings(terms=(CeTerm(kind="ce"),))
    assert [term.kind for term in DistillSettings(peers=2).loss_terms()] == ["kd", "ce", "mutual"]
    with pytest.raises(UsageError, match="give 2 students besides the first as `peers`, found 0"):
        distill(net("resnet8x0.25"), net("resnet8x0.5"), *digits, settings=settings())
