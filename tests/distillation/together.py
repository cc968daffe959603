"""Trainings for one process or several: `python -m torch.distributed.run ... together.py FOLDER` does all of them.

Each process writes what it found to `FOLDER/<rank>.json`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.artifact import Origin
from edgekd.data import ArraySamples
from edgekd.data.torch_data import TrainingBatches, Views
from edgekd.distillation import cache, engine, training
from edgekd.distillation.engine import distill
from edgekd.distillation.objective import LabelObjective
from edgekd.distillation.optimisation import learning_rate
from edgekd.distillation.processes import Processes, join
from edgekd.distillation.state import Checkpoints
from edgekd.distillation.teacher import TorchTeacher
from edgekd.distillation.training import Augmentation, Trained, train_network
from edgekd.errors import EdgekdError, UsageError
from edgekd.launch import leave
from edgekd.models import build, dump_weights
from edgekd.progress import SILENT
from edgekd.recipe import DistillSettings, TrainingSettings
from edgekd.stages import Stages

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(0, 1, (80, 1, 8, 8)).astype(np.float32)
LABELS = RNG.integers(0, 5, 80)
TRAIN = {"input": INPUTS[:47], "labels": LABELS[:47]}
VALIDATION = {"input": INPUTS[47:], "labels": LABELS[47:]}


class Killed(BaseException):
    """Stands for SIGKILL."""


def seeded(make: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def mlp(width: int = 24, dropout: float = 0.0) -> nn.Module:
    """Return a network without batch statistics."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 5))


def told(trained: Trained) -> dict[str, Any]:
    return {
        "losses": [epoch.loss for epoch in trained.history],
        "validation": [[epoch.validation_loss, epoch.validation_top1] for epoch in trained.history],
        "weights": [round(float(p.detach().double().sum()), 9) for p in trained.module.parameters()],
        "sha256": hashlib.sha256(dump_weights(trained.module)).hexdigest(),
        "names": list(trained.module.state_dict()),
        "processes": trained.metrics()["processes"],
    }


def on_labels(
    module: nn.Module, objective: Any = None, checkpoints: Checkpoints | None = None, **changed: Any
) -> Trained:
    settings = TrainingSettings(**{"epochs": 3, "batch_size": 13, "learning_rate": 0.05, **changed})
    return train_network(
        module, TRAIN, VALIDATION, objective or LabelObjective(), settings=settings,
        augmentation=Augmentation(crop_padding=1, flip=True), seed=3, checkpoints=checkpoints,
    )  # fmt: skip


def labels(folder: Path) -> dict[str, Any]:
    return told(on_labels(seeded(mlp)))


def accumulated(folder: Path) -> dict[str, Any]:
    return told(on_labels(seeded(mlp), batch_size=7, accumulate=3))


def batch_norm(folder: Path) -> dict[str, Any]:
    return told(on_labels(seeded(lambda: build("resnet8x0.25", classes=5, shape=(1, 8, 8)))))


def taught(folder: Path) -> dict[str, Any]:
    """With a term that learns itself and counts for a time only: then its parameters have no gradient."""
    kept: list[nn.Module] = []
    original = engine.train_network

    def watching(student: nn.Module, train: Any, validation: Any, objective: Any, **given: Any) -> Trained:
        kept.append(objective.learnt)
        return original(student, train, validation, objective, **given)

    engine.train_network = watching
    try:
        terms = '[{"kind": "hint", "stop": 0.5}, {"kind": "kd", "start": 0.3}, {"kind": "ce", "start": 0.3}]'
        settings = DistillSettings.model_validate_json(
            f'{{"epochs": 3, "batch_size": 13, "learning_rate": 0.05, "terms": {terms},'
            '"taps": {"pairs": [["1", "1"]]}}'
        )
        student, teacher = seeded(mlp), seeded(lambda: mlp(48), seed=1)
        before = dump_weights(teacher)
        trained = distill(student, teacher, TRAIN, VALIDATION, settings=settings, seed=3)
    finally:
        engine.train_network = original
    (learnt,) = kept
    adapters = [float(value.detach().double().sum()) for value in learnt.parameters()]
    return {**told(trained), "adapters": adapters, "teacher kept": dump_weights(teacher) == before}


def resumed(folder: Path) -> dict[str, Any]:
    """Killed after 2 and after 7 more steps, in a network that draws random numbers."""
    expected = on_labels(seeded(lambda: mlp(dropout=0.3)), accumulate=2, batch_size=8)
    checkpoints = Checkpoints(path=folder / "c.pt", key="k", every_s=0)
    for step, seed in ((2, 0), (5, 9)):
        left = [step]

        def killing(*given: Any, left: list[int] = left) -> float:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return learning_rate(*given)

        training.learning_rate = killing
        try:
            on_labels(seeded(lambda: mlp(dropout=0.3), seed), None, checkpoints, accumulate=2, batch_size=8)
        except Killed:
            torch.rand(3)
        else:
            raise AssertionError
    training.learning_rate = learning_rate
    found = on_labels(seeded(lambda: mlp(dropout=0.3), 9), None, checkpoints, accumulate=2, batch_size=8)
    return {"expected": told(expected), "found": told(found)}


def diverged(folder: Path) -> dict[str, Any]:
    """In the main process alone the loss is not finite."""

    class Bad(LabelObjective):
        def __call__(self, step: Any) -> dict[str, torch.Tensor]:
            parts = super().__call__(step)
            return {"ce": parts["ce"] * float("nan")} if step.epoch and join().is_main else parts

    try:
        on_labels(seeded(mlp), Bad(), Checkpoints(path=folder / f"d{join().rank}.pt", key="k", every_s=0))
    except EdgekdError as error:
        return {"message": str(error).replace(str(folder), "FOLDER")}
    raise AssertionError


def answers(folder: Path) -> dict[str, Any]:
    """Fill a cache of 15 shards."""
    cache.SHARD_BYTES, cache.BATCH = 1, 10
    batches = TrainingBatches(ArraySamples(TRAIN), batch_size=8, seed=3, crop_padding=1, views=Views(3, seed=3))
    teacher = TorchTeacher(seeded(mlp).eval(), "of this test")
    asked = 0
    original = cache.records_of

    def counting(found: Any, layout: Any) -> Any:
        nonlocal asked
        asked += len(found.logits)
        return original(found, layout)

    cache.records_of = counting
    cache.store_answers(
        folder / "answers", teacher, batches, {"data": "d"}, views=3, top_k=2, device=torch.device("cpu")
    )
    cache.records_of = original
    return {"asked": asked}


def stages(folder: Path) -> dict[str, Any]:
    """One process makes, all see; what only the main one finds wrong is raised in all."""
    processes = join()
    kept = Stages(folder=folder, extra={}, processes=processes, progress=SILENT)
    origin = Origin(stage="s", settings={"a": 1}, parents={}, libraries=("numpy",))
    made: list[int] = []
    artifact = kept.make("made.txt", origin, lambda: made.append(1) or (b"made", {}))
    copied = kept.copy(artifact, "copied.txt", origin)
    found = [artifact.sha256, copied.path.read_text(), len(made)]

    def wrong() -> Any:
        raise UsageError("only the main process knows")

    messages = []
    other = Origin(stage="s", settings={"a": processes.rank}, parents={}, libraries=("numpy",))
    for attempt in (lambda: kept.make("wrong.txt", origin, wrong), lambda: kept.make("other.txt", other, wrong)):
        try:
            attempt()
        except UsageError as error:
            messages.append(str(error))
    return {"found": found, "messages": messages}


EXPERIMENTS = (labels, accumulated, batch_norm, taught, resumed, diverged, answers, stages)


def main(folder: Path) -> dict[str, Any]:
    """Return what all experiments found."""
    found: dict[str, Any] = {experiment.__name__: experiment(folder) for experiment in EXPERIMENTS}
    processes: Processes = join()
    return {**found, "rank": processes.rank, "size": processes.size}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    results = main(place)
    (place / f"{results['rank']}.json").write_text(json.dumps(results))
    leave(0)
