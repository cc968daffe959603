from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.data import ArraySamples
from edgekd.distillation import training
from edgekd.distillation.engine import distill
from edgekd.distillation.objective import LabelObjective
from edgekd.distillation.optimisation import learning_rate
from edgekd.distillation.running import safe_in_channels_last
from edgekd.distillation.state import Checkpoints
from edgekd.distillation.training import Augmentation, Trained, train_network
from edgekd.errors import DataError, ModelError, UsageError
from edgekd.models import build, dump_weights
from edgekd.recipe import DistillSettings, TrainingSettings
from edgekd.terms import CacheSettings

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = DistillSettings(epochs=3, batch_size=16, learning_rate=0.05)


def blobs(count: int, seed: int) -> dict[str, np.ndarray]:
    """Return small images of three classes, told apart by their brightest row."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    inputs = rng.normal(0, 0.3, (count, 1, 8, 8)).astype(np.float32)
    inputs[np.arange(count), 0, 1 + 2 * labels] += 1.5
    return {"input": inputs, "labels": labels}


TRAIN, VALIDATION = blobs(90, 0), blobs(40, 1)


class WithDropout(nn.Module):
    """Draws from torch's random state in every step: a resume must bring that back too."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(x)
        return logits


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return WithDropout()


def train(module: nn.Module, checkpoints: Checkpoints | None = None, epochs: int = 3) -> Trained:
    return train_network(
        module,
        TRAIN,
        VALIDATION,
        LabelObjective(),
        settings=TrainingSettings(epochs=epochs, batch_size=16, learning_rate=0.05),
        augmentation=Augmentation(crop_padding=1),
        seed=3,
        checkpoints=checkpoints,
    )


def test_a_network_learns() -> None:
    trained = train(network(), epochs=8)
    assert trained.history[trained.best_epoch].validation_top1 >= 0.9
    assert trained.history[-1].loss < trained.history[0].loss
    assert not trained.module.training
    assert len(trained.metrics()["history"]) == 8


def test_the_best_epoch_is_kept() -> None:
    trained = train(network(), epochs=6)
    ranks = [(epoch.validation_top1, -epoch.validation_loss) for epoch in trained.history]
    assert trained.best_epoch == ranks.index(max(ranks))
    with torch.no_grad():
        logits = trained.module(torch.from_numpy(VALIDATION["input"]))
    top1 = float((logits.argmax(1).numpy() == VALIDATION["labels"]).mean())
    assert top1 == pytest.approx(ranks[trained.best_epoch][0], abs=1e-6)


def test_the_last_epoch_is_kept_where_that_is_wanted() -> None:
    settings = {"epochs": 6, "batch_size": 16, "learning_rate": 0.4}
    best, last = (
        train_network(
            network(), TRAIN, VALIDATION, LabelObjective(),
            settings=TrainingSettings(**settings, keep=keep), augmentation=Augmentation(), seed=3,
        )
        for keep in ("best", "last")
    )  # fmt: skip
    assert best.history == last.history
    assert (best.kept_epoch, last.kept_epoch) == (best.best_epoch, 5)
    assert best.best_epoch != 5
    assert dump_weights(best.module) != dump_weights(last.module)
    assert last.metrics()["validation_top1"] == last.history[5].validation_top1


class Killed(BaseException):
    """Stands for SIGKILL: nothing is saved on the way out."""


@pytest.mark.parametrize("step", [1, 5, 6, 7, 11, 17])
def test_a_killed_training_resumes_bit_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    expected = dump_weights(train(network()).module)
    checkpoints = Checkpoints(path=tmp_path / "c.pt", key="k", every_s=0)
    seen = 0
    original = training.learning_rate

    def killing(*arguments: object) -> float:
        nonlocal seen
        seen += 1
        if seen == step + 1:
            raise Killed
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "learning_rate", killing)
    with pytest.raises(Killed):
        train(network(), checkpoints)
    monkeypatch.setattr(training, "learning_rate", original)
    torch.rand(7)  # another process, another random state
    resumed = train(network(seed=9), checkpoints)
    assert dump_weights(resumed.module) == expected
    assert [epoch.loss for epoch in resumed.history] == [epoch.loss for epoch in train(network()).history]


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_or_foreign_checkpoint_is_left_alone(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "c.pt"
    if content is None:
        train(network(seed=5), Checkpoints(path=path, key="another", every_s=0))
    else:
        path.write_bytes(content)
    trained = train(network(), Checkpoints(path=path, key="k", every_s=0))
    assert dump_weights(trained.module) == dump_weights(train(network()).module)


def test_a_checkpoint_of_another_network_under_the_same_key_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(path=tmp_path / "c.pt", key="k", every_s=0)
    train(network(), checkpoints)
    with pytest.raises(ModelError, match=r"the checkpoint does not fit what is trained; delete it"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), checkpoints)


def test_how_often_checkpoints_are_written_changes_nothing(tmp_path: Path) -> None:
    often = train(network(), Checkpoints(path=tmp_path / "c.pt", key="k", every_s=0))
    assert dump_weights(often.module) == dump_weights(train(network()).module)
    assert (tmp_path / "c.pt").exists()


def test_the_students_weights_are_its_own_and_the_teacher_is_untouched() -> None:
    torch.manual_seed(0)
    teacher = build("resnet8x0.5", classes=3, shape=(1, 8, 8)).train()
    teacher.fc.weight.requires_grad_(False)  # type: ignore[union-attr,operator]
    before = dump_weights(teacher)
    student = build("resnet8x0.25", classes=3, shape=(1, 8, 8))
    names = set(student.state_dict())
    trained = distill(student, teacher, TRAIN, VALIDATION, settings=SETTINGS)
    assert dump_weights(teacher) == before  # batch statistics too: it was in eval mode
    assert teacher.training
    assert [p.requires_grad for p in teacher.parameters()].count(False) == 1
    assert set(trained.module.state_dict()) == names
    assert not any(hook for module in student.modules() for hook in module._forward_hooks)


def test_the_student_learns_what_only_the_teacher_knows() -> None:
    """With alpha 1 the labels are not looked at: noise for labels must not matter."""
    teacher = train(network(), epochs=8).module
    noise = {**TRAIN, "labels": np.random.default_rng(7).integers(0, 3, len(TRAIN["labels"]))}
    settings = DistillSettings(epochs=10, batch_size=16, learning_rate=0.1, alpha=1.0)
    trained = distill(network(seed=4), teacher, noise, VALIDATION, settings=settings)
    assert trained.history[trained.best_epoch].validation_top1 >= 0.85


def test_teacher_and_student_must_know_the_same_classes() -> None:
    teacher = build("mlp-8", classes=4, shape=(1, 8, 8))
    with pytest.raises(ModelError, match=r"teacher's logits have shape \(16, 4\), the student's \(16, 3\)"):
        distill(network(), teacher, TRAIN, VALIDATION, settings=SETTINGS)


def test_samples_and_labels_are_needed() -> None:
    with pytest.raises(DataError, match="training needs labels"):
        distill(network(), network(), {"input": TRAIN["input"]}, VALIDATION, settings=SETTINGS)
    two = ArraySamples({"a": TRAIN["input"], "b": TRAIN["input"], "labels": TRAIN["labels"]})
    with pytest.raises(Exception, match="a, b"):
        distill(network(), network(), two, VALIDATION, settings=SETTINGS)


def test_a_diverging_training_stops_with_a_message() -> None:
    settings = TrainingSettings(epochs=3, batch_size=16, learning_rate=1000)
    unbounded = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3))
    with pytest.raises(ModelError, match=r"training diverged: .*lower learning_rate"):
        train_network(
            unbounded, TRAIN, VALIDATION, LabelObjective(), settings=settings, augmentation=Augmentation(), seed=0
        )


def test_a_network_that_does_not_fit_its_data_is_named() -> None:
    with pytest.raises(ModelError, match=r"cannot take inputs of shape \(16, 1, 8, 8\)"):
        train(nn.Linear(3, 3))


def test_a_network_that_does_not_know_its_shapes_is_named() -> None:
    with pytest.raises(ModelError, match="cannot be moved to cpu: ValueError: Attempted to use an uninitialized"):
        train(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))


class Faulty(nn.Module):
    """A good network but for one thing."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 3)
        self.fault = fault

    def forward(self, x: torch.Tensor) -> object:
        logits = self.fc(x.flatten(1))
        if self.fault == "training" and self.training:
            raise KeyError("no such mode")
        if self.fault == "batch" and len(x) == 16:
            raise ZeroDivisionError
        answers = {
            "detached": logits.detach(),
            "tuple": (logits, x),
            "three axes": logits[:, None],
            "one for all": logits[:1],
            "integers": logits.argmax(1, keepdim=True),
        }
        return answers.get(self.fault, logits)

    def load_state_dict(self, *arguments: object, **values: object) -> object:  # type: ignore[override]
        if self.fault == "loading":
            raise ValueError("mine is another format")
        return super().load_state_dict(*arguments, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("training", r"cannot take inputs of shape \(16, 1, 8, 8\): KeyError: 'no such mode'"),
        ("batch", r"cannot take inputs of shape \(16, 1, 8, 8\): ZeroDivisionError$"),
        ("detached", "logits carry no gradient"),
        ("tuple", "one tensor of logits .*, found tuple"),
        ("three axes", r"shape \(16, classes\) for 16 samples, found float32 of shape \(16, 1, 3\)"),
        ("one for all", r"found float32 of shape \(1, 3\)"),
        ("integers", "found int64"),
        ("loading", r"load_state_dict\(\) failed: ValueError: mine is another format"),
    ],
)
def test_a_network_whose_own_code_fails_is_a_model_error(fault: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        train(Faulty(fault), epochs=1)


def test_a_teacher_whose_code_fails_is_named() -> None:
    with pytest.raises(ModelError, match=r"the teacher must return one tensor of logits .* found tuple"):
        distill(network(), Faulty("tuple"), TRAIN, VALIDATION, settings=SETTINGS)


def test_labels_that_are_no_class_of_the_network() -> None:
    high = {**TRAIN, "labels": TRAIN["labels"] + 1}
    with pytest.raises(DataError, match=r"labels reach 3, but the network tells 3 classes apart \(0 to 2\)"):
        distill(network(), network(), high, VALIDATION, settings=SETTINGS)
    with pytest.raises(DataError, match="reach 3"):
        distill(network(), network(), TRAIN, {**VALIDATION, "labels": VALIDATION["labels"] + 1}, settings=SETTINGS)
    with pytest.raises(DataError, match="-1"):
        distill(network(), network(), {**TRAIN, "labels": TRAIN["labels"] - 1}, VALIDATION, settings=SETTINGS)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5])
def test_a_seed_out_of_range(tmp_path: Path, seed: int) -> None:
    with pytest.raises(UsageError, match="seed must be a whole number from 0 to 4294967295"):
        distill(network(), network(), TRAIN, VALIDATION, settings=SETTINGS, seed=seed)
    cached = SETTINGS.model_copy(update={"cache": CacheSettings()})
    with pytest.raises(UsageError, match="seed must be a whole number"):
        distill(network(), network(), TRAIN, VALIDATION, settings=cached, seed=seed, cache_folder=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_float64_and_lists_train_as_float32_does() -> None:
    expected = train(network(), epochs=1).history
    for cast in (lambda array: array.astype(np.float64), lambda array: array.tolist()):
        same = {"input": cast(TRAIN["input"]), "labels": TRAIN["labels"].tolist()}
        found = train_network(
            network(),
            same,
            VALIDATION,
            LabelObjective(),
            settings=TrainingSettings(epochs=1, batch_size=16, learning_rate=0.05),
            augmentation=Augmentation(crop_padding=1),
            seed=3,
        )
        assert found.history == expected


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    settings = TrainingSettings(learning_rate=0.2, warmup=0.1)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert max(rates) == pytest.approx(0.2)
    assert rates.index(max(rates)) == 10
    assert rates[0] == pytest.approx(0.2 / 11)
    assert rates[-1] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_narrow_strided_convolutions_are_kept_out_of_channels_last() -> None:
    """There oneDNN's backward pass corrupts the heap; wide ones are trained in the faster order."""
    for name, safe in (("resnet8x0.25", False), ("resnet8x0.5", False), ("resnet8", True), ("wrn-16-2", True)):
        assert safe_in_channels_last(build(name, classes=3, shape=(1, 8, 8))) is safe, name
    grouped = nn.Conv2d(32, 32, 1, stride=2, groups=4)
    assert not safe_in_channels_last(grouped)
