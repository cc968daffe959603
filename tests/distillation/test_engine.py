"""Whole distillations, a few steps each: every kind of term, every kind of teacher."""

from __future__ import annotations

import functools
import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from listening import Heard
from torch import nn
from torch.nn import functional as F

from edgekd.data import ArraySamples, Contract
from edgekd.data.torch_data import TrainingBatches, Views
from edgekd.distillation import training
from edgekd.distillation.cache import OtherAnswersError
from edgekd.distillation.engine import check_terms, distill
from edgekd.distillation.losses.response import confidence_weights, kd_loss
from edgekd.distillation.objective import LabelObjective, Step, TeacherObjective, _names
from edgekd.distillation.optimisation import learning_rate
from edgekd.distillation.state import Checkpoints
from edgekd.distillation.taps import tapped
from edgekd.distillation.teacher import Answers, TorchTeacher
from edgekd.distillation.terms import build_term
from edgekd.distillation.training import Augmentation, train_network
from edgekd.errors import ModelError, UsageError
from edgekd.models import dump_weights
from edgekd.onnx_export import export
from edgekd.recipe import DistillSettings, TrainingSettings
from edgekd.terms import KINDS, ConfidenceSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgekd.distillation.training import Trained

Arrays = dict[str, np.ndarray]
Digits = tuple[Arrays, Arrays]
TAPS = {"pairs": [["layer2", "layer3"], ["flatten", "flatten"]]}


def settings(*terms: dict[str, Any], **changed: Any) -> DistillSettings:
    usual = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, "taps": TAPS}
    return DistillSettings.model_validate_json(
        json.dumps({**usual, **changed, **({"terms": terms} if terms else {})})
    )


def run(digits: Digits, net: Any, chosen: DistillSettings, teacher: Any = None, **changed: Any) -> Trained:
    student = changed.pop("student", None) or net("resnet8x0.25", 1)
    return distill(student, teacher or net("resnet8x0.5"), *digits, settings=chosen, **changed)


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"mutual"}))  # it needs peers
def test_every_kind_teaches_and_leaves_nothing_in_the_student(digits: Digits, net: Any, kind: str) -> None:
    student, teacher = net("resnet8x0.25", 1), net("resnet8x0.5")
    names, before = set(student.state_dict()), dump_weights(teacher)
    needed = {"at": {"pairs": [0]}, "deep-supervision": {"places": ["layer1", "flatten"]}}  # the former needs maps
    pairs = needed.get(kind, {})
    trained = run(digits, net, settings({"kind": kind, **pairs}, epochs=6, warmup=0.0), teacher, student=student)
    losses = [epoch.loss for epoch in trained.history]
    assert losses[-1] < losses[0]
    assert set(trained.module.state_dict()) == names
    assert dump_weights(teacher) == before
    for module in (student, teacher):
        assert not any(child._forward_hooks for child in module.modules())


def test_the_default_is_kd_and_cross_entropy_to_the_last_bit(digits: Digits, net: Any) -> None:
    """Against a loop by hand: the same order of samples, the usual loss, plain SGD."""
    chosen = settings(epochs=2, alpha=0.7, temperature=3.0)
    found = run(digits, net, chosen).history
    student, teacher = net("resnet8x0.25", 1), net("resnet8x0.5").eval()
    optimizer = torch.optim.SGD(
        student.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=chosen.weight_decay
    )
    batches = TrainingBatches(ArraySamples(digits[0]), batch_size=16, seed=0)
    losses = []
    for epoch in range(2):
        student.train()
        total = 0.0
        for number, batch in enumerate(batches.epoch(epoch)):
            optimizer.param_groups[0]["lr"] = learning_rate(epoch * 3 + number, 6, chosen)
            with torch.no_grad():
                answers = teacher(batch.inputs)
            logits = student(batch.inputs)
            soft = F.kl_div(
                F.log_softmax(logits / 3, dim=1),
                F.log_softmax(answers / 3, dim=1),
                reduction="batchmean",
                log_target=True,
            )
            loss = 0.7 * (soft * 9) + (1 - 0.7) * F.cross_entropy(logits, batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
        losses.append(float(f"{total / 3:.6g}"))
    assert [epoch.loss for epoch in found] == losses
    explicit = settings({"kind": "kd", "weight": 0.7, "temperature": 3.0}, {"kind": "ce", "weight": 1 - 0.7})
    assert run(digits, net, explicit).history == found


def test_the_whole_loss_is_the_weighed_sum(digits: Digits, net: Any) -> None:
    terms = [
        {"kind": "kd", "weight": 0.5}, {"kind": "sp", "weight": 10.0, "pairs": [1]}, {"kind": "ce", "weight": 0.25},
    ]  # fmt: skip
    with first_step(settings(*terms), net, digits) as (objective, step):
        parts = {name: float(part.detach()) for name, part in objective(step).items()}
        expected = float(F.cross_entropy(step.logits, step.labels).detach())
    assert list(parts) == ["kd", "sp", "ce"]
    assert parts["ce"] == pytest.approx(0.25 * expected, rel=1e-6)
    with first_step(settings({"kind": "sp", "weight": 1.0, "pairs": [1]}), net, digits) as (alone, step):
        assert parts["sp"] == pytest.approx(10 * float(alone(step)["sp"].detach()), rel=1e-6)


@contextmanager
def first_step(
    chosen: DistillSettings, net: Any, digits: Digits, share: float = 0.0, ask: Any = None
) -> Iterator[tuple[TeacherObjective, Step]]:
    """Yield an objective and its first step."""
    student, teacher = net("resnet8x0.25", 1).eval(), TorchTeacher(net("resnet8x0.5"))
    inputs, labels = torch.from_numpy(digits[0]["input"][:16]), torch.from_numpy(digits[0]["labels"][:16])
    ours, theirs = ([pair[side] for pair in chosen.pairs] for side in (0, 1))
    with tapped(student, ours) as taps, teacher.ready(torch.device("cpu"), theirs) as asking:
        ask = ask or asking
        student(inputs)
        shapes = [
            (tuple(a.shape), tuple(b.shape))
            for a, b in zip(taps.take(), ask(inputs, torch.arange(16), 0).features, strict=True)
        ]
        terms = [build_term(term, shapes) for term in chosen.loss_terms()]
        yield (
            TeacherObjective(terms, ask, taps, chosen.confidence),
            Step(
                inputs=inputs, logits=student(inputs), labels=labels, positions=torch.arange(16), epoch=0, share=share
            ),
        )


def test_terms_count_in_their_own_time_and_the_teacher_is_asked_only_then(digits: Digits, net: Any) -> None:
    chosen = settings(
        {"kind": "hint", "stop": 0.25}, {"kind": "kd", "start": 0.25, "stop": 0.5, "weight": 1.0, "weight_end": 0.0},
        {"kind": "ce", "start": 0.5}, taps={"pairs": [["layer2", "layer2"]]},
    )  # fmt: skip
    asked = []

    def ask(inputs: torch.Tensor, positions: Any, epoch: int) -> Answers:
        asked.append(len(inputs))
        return Answers(torch.ones(16, 10), (torch.zeros(16, 8, 4, 4),))

    found = []
    for share in (0.0, 0.2, 0.25, 0.375, 0.5, 0.9):
        with first_step(chosen, net, digits, share, ask) as (objective, step):
            asked.clear()
            found.append((list(objective(step)), len(asked)))
    assert found == [(["hint"], 1), (["hint"], 1), (["kd"], 1), (["kd"], 1), (["ce"], 0), (["ce"], 0)]


def test_weights_and_temperatures_move_within_a_terms_time(digits: Digits, net: Any) -> None:
    """From 0.2 to 0.6 of the training; a schedule that is given for the whole of it is the same thing."""
    term = {"kind": "kd", "weight": 1.0, "weight_end": 0.2, "temperature": 8.0, "temperature_end": 2.0}
    staged = settings({**term, "start": 0.2, "stop": 0.6}, {"kind": "ce"})
    plain = settings(alpha=1.0, alpha_end=0.2, temperature=8.0, temperature_end=2.0)
    answers = torch.from_numpy(np.random.default_rng(0).normal(size=(16, 10)).astype(np.float32))

    def part(chosen: DistillSettings, share: float) -> tuple[float, torch.Tensor]:
        with first_step(chosen, net, digits, share, lambda *_: Answers(answers, ())) as (objective, step):
            return float(objective(step)["kd"].detach()), step.logits.detach()

    for share, weight, temperature in ((0.2, 1.0, 8.0), (0.3, 0.8, 6.5), (0.5, 0.4, 3.5)):
        found, logits = part(staged, share)
        expected = weight * float(kd_loss(logits, answers, temperature=temperature))
        assert found == pytest.approx(expected, rel=1e-5)
        assert part(plain, (share - 0.2) / 0.4)[0] == pytest.approx(expected, rel=1e-5)


def test_hints_first_then_logits(digits: Digits, net: Any) -> None:
    """Two epochs of the same data: in the first the head learns nothing, in the second all of it does."""
    student = net("resnet8x0.25", 1)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    seen: list[dict[str, bool]] = []

    def after_epoch(history: Any) -> None:
        moved = {name: not torch.equal(value, before[name]) for name, value in student.state_dict().items()}
        seen.append({"head": moved["fc.weight"], "stem": any(moved[n] for n in moved if n.startswith("layer1"))})

    taps = {"pairs": [["layer2", "layer2"]]}
    terms = ({"kind": "hint", "stop": 0.5}, {"kind": "kd", "start": 0.5}, {"kind": "ce", "start": 0.5})
    run(digits, net, settings(*terms, taps=taps, weight_decay=0.0), student=student, after_epoch=after_epoch)
    assert seen == [{"head": False, "stem": True}, {"head": True, "stem": True}]


def test_equal_kinds_have_numbers() -> None:
    terms = [build_term(term, []) for term in settings({"kind": "kd"}, {"kind": "ce"}, {"kind": "kd"}).terms]
    assert list(TeacherObjective(terms, None, None).learnt) == terms  # type: ignore[arg-type]
    assert _names(terms) == ["kd 1", "ce", "kd 2"]


def test_answers_that_do_not_count_teach_nothing(digits: Digits, net: Any) -> None:
    """All of them wrong by the label: the student stays as it was, but for weight decay's zero."""
    wrong = (digits[0]["labels"] + 1) % 10

    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.known = {digits[0]["input"][i].tobytes(): wrong[i] for i in range(48)}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answers = [self.known.get(image.numpy().tobytes(), 0) for image in x]
            return 9 * F.one_hot(torch.tensor(answers), 10).float()

    chosen = {"weight_decay": 0.0, "epochs": 1}
    before = net("resnet8x0.25", 1)
    heard = Heard()
    filtered = settings({"kind": "kd"}, confidence={"only_correct": True}, **chosen)
    kept = run(digits, net, filtered, Wrong(), progress=heard).module
    assert [note for note in heard.notes if "nothing was learnt; a filter" in note]
    for name, value in before.named_parameters():
        assert torch.equal(value, dict(kept.named_parameters())[name])
    heard = Heard()
    taught = run(digits, net, settings({"kind": "kd"}, **chosen), Wrong(), progress=heard).module
    assert heard.notes == []
    assert not torch.equal(before.conv1.weight, taught.conv1.weight)


@pytest.mark.parametrize("chosen", [{"threshold": 0.5}, {"soft": True}, {"only_correct": True}])
def test_confidence_reaches_the_terms(digits: Digits, net: Any, chosen: dict[str, Any]) -> None:
    confidence = ConfidenceSettings(**chosen)
    with first_step(settings({"kind": "kd"}, confidence=chosen), net, digits) as (objective, step):
        answers = objective._ask(step.inputs, step.positions, 0).logits
        found = float(objective(step)["kd"].detach())
    labels = step.labels if confidence.only_correct else None
    weights = confidence_weights(answers, labels, threshold=confidence.threshold, soft=confidence.soft)
    logits = step.logits.detach()
    assert found == pytest.approx(float(kd_loss(logits, answers, 4.0, weights)), rel=1e-6)
    assert found != pytest.approx(float(kd_loss(logits, answers, 4.0)))


def test_a_teacher_that_gives_nan_is_named(digits: Digits, net: Any) -> None:
    teacher = net("resnet8x0.5")
    with torch.no_grad():
        teacher.fc.bias[0] = float("nan")
    with pytest.raises(ModelError, match="the teacher's logits hold NaN"):
        run(digits, net, settings(), teacher)


def test_a_teacher_whose_features_are_nan_is_named(digits: Digits, net: Any) -> None:
    teacher = net("resnet8x0.5")
    teacher.layer3.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    teacher.pool.register_forward_hook(lambda module, inputs, output: output.nan_to_num())
    with pytest.raises(ModelError, match="the teacher's tapped features hold NaN"):
        run(digits, net, settings({"kind": "ce"}, {"kind": "hint"}), teacher)


class Silent:
    """A teacher of one's own that gives no features."""

    fingerprint = "silent"
    libraries = ()

    @contextmanager
    def ready(self, device: torch.device, taps: Any) -> Iterator[Any]:
        yield lambda inputs, positions, epoch: Answers(torch.zeros(len(inputs), 10), ())


def test_a_teacher_that_gives_too_few_features_is_named(digits: Digits, net: Any) -> None:
    with pytest.raises(ModelError, match="the teacher gives 0 features"):
        run(digits, net, settings({"kind": "ce"}, {"kind": "hint"}), Silent())


class SequenceFirst(nn.Module):
    """Its inner features are of shape (places, samples, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.turned = nn.Identity()
        self.head = nn.Linear(8, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.turned(inputs[:, 0].transpose(0, 1)).mean(dim=0))
        return logits


@pytest.mark.parametrize("cached", [False, True])
def test_features_that_do_not_begin_with_the_samples_are_refused(
    digits: Digits, net: Any, tmp_path: Path, cached: bool
) -> None:
    chosen = settings(
        {"kind": "ce"}, {"kind": "sp"}, taps={"pairs": [["turned", "turned"]]}, cache={} if cached else None
    )
    with pytest.raises(ModelError, match=r"'turned' gives features of shape \(8, 2, 8\) for 2 samples"):
        run(digits, net, chosen, SequenceFirst(), student=SequenceFirst(), cache_folder=tmp_path)


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("step", [1, 3, 4, 5])
def test_a_killed_distillation_resumes_bit_exactly(
    digits: Digits, net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, cached: bool
) -> None:
    """With terms that learn themselves, a schedule, a cache and augmentation."""
    chosen = settings(
        {"kind": "vid"}, {"kind": "hint", "pairs": [1]}, {"kind": "kd", "temperature_end": 1.0, "start": 0.3},
        cache={"views": 2} if cached else None,
    )  # fmt: skip
    common: dict[str, Any] = {"augmentation": Augmentation(crop_padding=1), "cache_folder": tmp_path / "answers"}
    expected = run(digits, net, chosen, **common)
    checkpoints = Checkpoints(path=tmp_path / "c.pt", key="k", every_s=0)
    seen = 0

    def killing(*arguments: Any) -> float:
        nonlocal seen
        seen += 1
        if seen == step + 1:
            raise Killed
        return learning_rate(*arguments)

    monkeypatch.setattr(training, "learning_rate", killing)
    with pytest.raises(Killed):
        run(digits, net, chosen, checkpoints=checkpoints, **common)
    monkeypatch.undo()
    torch.rand(3)
    resumed = run(digits, net, chosen, checkpoints=checkpoints, student=net("resnet8x0.25", 7), **common)
    assert dump_weights(resumed.module) == dump_weights(expected.module)
    assert resumed.history == expected.history


class Untouchable(nn.Module):
    """Must not be run."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError


def test_a_cached_distillation_is_the_live_one_up_to_rounding(digits: Digits, net: Any, tmp_path: Path) -> None:
    chosen = {"epochs": 3, "taps": TAPS}
    terms = [{"kind": "kd"}, {"kind": "hint", "weight": 0.1}]
    augmentation = Augmentation(crop_padding=1, views=Views(2, seed=5))
    live = run(digits, net, settings(*terms, **chosen), augmentation=augmentation)
    cache = {"views": 2, "seed": 5}
    stored = functools.partial(
        run, digits, net, settings(*terms, **chosen, cache=cache),
        augmentation=Augmentation(crop_padding=1), cache_folder=tmp_path,
    )  # fmt: skip
    cached = stored()
    for one, other in zip(cached.history, live.history, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=0.02)
    teacher = TorchTeacher(Untouchable(nn.Flatten()), TorchTeacher(net("resnet8x0.5")).fingerprint)
    again = stored(teacher=teacher, seed=0)  # a teacher that must not run: all is on disk
    assert again.history == cached.history
    stored(teacher=teacher, seed=1)  # another seed of the run sees the same views


def test_without_augmentation_one_view_is_enough(digits: Digits, net: Any, tmp_path: Path) -> None:
    run(digits, net, settings(cache={"views": 4}, epochs=1), cache_folder=tmp_path)
    assert [path.name for path in tmp_path.glob("*.npy")] == ["0000-000000000.npy"]


def test_other_answers_are_refused_unless_the_folder_is_ones_own(digits: Digits, net: Any, tmp_path: Path) -> None:
    chosen = settings(cache={}, epochs=1)
    run(digits, net, chosen, cache_folder=tmp_path)
    other = net("resnet8x0.5", 5)
    with pytest.raises(OtherAnswersError, match=r"other questions \(teacher differ\)"):
        run(digits, net, chosen, other, cache_folder=tmp_path)
    run(digits, net, chosen, other, cache_folder=tmp_path, cache_is_own=True)
    run(digits, net, chosen, other, cache_folder=tmp_path)


def test_the_tail_is_told_at_the_temperatures_of_the_terms(digits: Digits, net: Any, tmp_path: Path) -> None:
    chosen = settings(
        {"kind": "kd", "temperature": 3.0, "temperature_end": 0.5}, {"kind": "dkd", "temperature": 2.0}, {"kind": "ce"},
        cache={"top_k": 4}, epochs=1,
    )  # fmt: skip
    heard = Heard()
    run(digits, net, chosen, cache_folder=tmp_path, progress=heard)
    (told,) = [note for note in heard.notes if "4 of 10 logits are stored" in note]
    assert re.findall(r"at temperature (\S+?)[.,] ", told) == ["2", "3"]


def test_a_cache_needs_a_folder(digits: Digits, net: Any) -> None:
    with pytest.raises(UsageError, match="say where the answers go"):
        run(digits, net, settings(cache={}))


def test_an_onnx_file_teaches_as_its_module_does(digits: Digits, net: Any, tmp_path: Path) -> None:
    teacher = net("resnet8x0.5")
    labels = tuple("0123456789")
    contract = Contract(layout="as-is", shape=(1, 8, 8), labels=labels)
    export(teacher, tmp_path / "t.onnx", contract=contract)
    terms = [{"kind": "kd"}, {"kind": "ce"}]
    live = run(digits, net, settings(*terms), teacher)
    found = run(digits, net, settings(*terms), tmp_path / "t.onnx")
    for one, other in zip(found.history, live.history, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)
    names = [node.output[0] for node in onnx.load(tmp_path / "t.onnx").graph.node if node.op_type == "Relu"]
    taps = {"pairs": [["layer3", names[-1]]]}
    trained = run(digits, net, settings({"kind": "hint"}, taps=taps, epochs=5), tmp_path / "t.onnx")
    assert trained.history[-1].loss < trained.history[0].loss


def test_wrong_taps_are_found_without_training(net: Any) -> None:
    student, teacher = net("resnet8x0.25"), net("resnet8x0.5")
    good = settings({"kind": "hint"})
    check_terms(good, student, teacher, (1, 8, 8))
    wrong = settings({"kind": "hint"}, taps={"pairs": [["layer2", "layer9"]]})
    with pytest.raises(UsageError, match=r"no module 'layer9'"):
        check_terms(wrong, student, teacher, (1, 8, 8))
    unlike = settings({"kind": "hint"}, taps={"pairs": [["layer2", "flatten"]]})
    with pytest.raises(ModelError, match="the student's features have shape"):
        check_terms(unlike, student, teacher, (1, 8, 8))
    flat = settings({"kind": "at"}, taps={"pairs": [["flatten", "flatten"]]})
    with pytest.raises(UsageError, match="'at' needs maps"):
        check_terms(flat, student, teacher, (1, 8, 8))


def test_a_term_that_explodes_is_named_and_the_best_epoch_is_kept(
    digits: Digits, net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one good epoch the hint's features overflow."""

    class Grows(LabelObjective):
        def __call__(self, step: Step) -> dict[str, torch.Tensor]:
            large = 1.0 if step.epoch == 0 else 1e5
            return {**super().__call__(step), "hint": large * (1 + step.logits.square().mean())}

    student = net("resnet8x0.25", 1)
    checkpoints = Checkpoints(path=tmp_path / "c.pt", key="k", every_s=0)
    with pytest.raises(ModelError) as caught:
        train_network(
            student, *digits, Grows(), settings=TrainingSettings(epochs=3, batch_size=16, learning_rate=0.01),
            augmentation=Augmentation(), seed=0, checkpoints=checkpoints,
        )  # fmt: skip
    message = str(caught.value)
    assert message.startswith("training diverged: the term 'hint' of the loss is ")
    assert "at epoch 2, step 1" in message
    assert f"the weights of epoch 1 are kept; the last good checkpoint is {tmp_path / 'c.pt'}" in message
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    assert saved["position"] == [1, 0]
    for name, value in student.state_dict().items():
        assert torch.equal(value, saved["best_weights"][name])


@pytest.mark.parametrize("peers", [1, 2])
def test_a_weight_that_grows_is_no_explosion(digits: Digits, net: Any, peers: int) -> None:
    growing = {"kind": "kd", "weight": 0.0, "weight_end": 1e6}
    mutual = [{"kind": "mutual"}] if peers > 1 else []
    chosen = settings({"kind": "ce"}, growing, *mutual, peers=peers, learning_rate=1e-9)
    trained = run(digits, net, chosen, peers=[net("resnet8x0.25", 2)] * (peers - 1))
    assert trained.history[-1].loss > 1e4, "no less than the limit where weights are not looked at"


def test_a_checkpoint_of_spoilt_weights_is_not_written(digits: Digits, net: Any, tmp_path: Path) -> None:
    """A finite loss whose step makes the weights NaN: the next loss tells, the last good checkpoint stays."""

    class Poisoned(LabelObjective):
        def __call__(self, step: Step) -> dict[str, torch.Tensor]:
            parts = super().__call__(step)
            if step.epoch == 1:
                step.logits.register_hook(lambda gradient: gradient * float("nan"))
            return parts

    checkpoints = Checkpoints(path=tmp_path / "c.pt", key="k", every_s=0)
    with pytest.raises(ModelError, match=r"the term 'ce' of the loss is nan at epoch 2, step 2"):
        train_network(
            net("resnet8x0.25", 1), *digits, Poisoned(), settings=TrainingSettings(epochs=3, batch_size=16),
            augmentation=Augmentation(), seed=0, checkpoints=checkpoints,
        )  # fmt: skip
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    assert saved["position"] == [1, 0]
    assert all(torch.isfinite(value).all() for value in saved["module"].values())


def test_patience_ends_a_training_that_gets_no_better(
    digits: Digits, net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([(1.0, 0.5), (0.9, 0.6), (0.95, 0.6), (0.99, 0.5), (0.1, 0.9)])
    monkeypatch.setattr(training, "_validate", lambda *arguments: next(scores))
    chosen = settings(epochs=5, patience=2)
    checkpoints = Checkpoints(path=tmp_path / "c.pt", key="k", every_s=0)
    trained = run(digits, net, chosen, checkpoints=checkpoints)
    assert (len(trained.history), trained.best_epoch) == (4, 1)
    again = run(digits, net, chosen, checkpoints=checkpoints)  # it is over also after a resume
    assert again.history == trained.history
    assert next(scores) == (0.1, 0.9)
