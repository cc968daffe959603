"""The networks of a run: teacher, control and student, each trained once or taken as the recipe names it."""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgekd.artifact import Artifact, Origin, canonical_json, indented_json, rounded
from edgekd.errors import ModelError
from edgekd.recipe import DistillSettings, ModelSettings, Recipe, TeacherSettings, TrainingSettings
from edgekd.stages import RUNTIME_LIBRARIES, Stages
from edgekd.text import share

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from edgekd.data.samples import Samples
    from edgekd.data.splits import Splits
    from edgekd.distillation.state import Checkpoints, Epoch
    from edgekd.distillation.teacher import Teacher
    from edgekd.distillation.training import Trained
    from edgekd.terms import SynthesisSettings

TRAINING_LIBRARIES = ("numpy", "torch")


class Training(NamedTuple):
    """A trained network.

    Attributes:
        seed: Of its first weights, the order of samples and their augmentation.
        origin: What it was made from.
        weights: Its file.
    """

    seed: int
    origin: Origin
    weights: Artifact

    @property
    def rank(self) -> tuple[float, float]:
        """Accuracy on the validation split of the epoch that is kept, then the loss there: the larger, the better."""
        kept = self.weights.metrics["history"][self.weights.metrics["kept_epoch"]]
        return kept["validation_top1"], -kept["validation_loss"]


class Teaching(NamedTuple):
    """A teacher of a run.

    Attributes:
        model: Its architecture.
        weights: Its file; an ONNX file needs no architecture.
        weight: How much its answers count beside others'.
    """

    model: ModelSettings
    weights: Artifact
    weight: float = 1.0


class Networks:
    """Teacher, control and student of one recipe, as stages of one folder."""

    def __init__(self, recipe: Recipe, splits: Splits, stages: Stages, data_parents: Mapping[str, str]) -> None:
        """Take what they are made from.

        Args:
            recipe: Says how.
            splits: The samples.
            stages: Where artifacts lie.
            data_parents: What every stage that sees the data depends on.
        """
        self.recipe = recipe
        self.splits = splits
        self.contract = splits.contract
        self.stages = stages
        self.data_parents = data_parents
        self.made: Artifact | None = None  # images from the teacher, which the student learns from
        self.trainings: dict[str, list[Training]] = {}  # of control and student, one for each seed

    def train(self) -> dict[str, Artifact]:
        """Return the weights by role: teacher, control if asked for, student.

        With several seeds control and student are trained with each, and the best on the validation split is kept.
        """
        teachers = self.teachers()
        weights = {"teacher": teachers[0].weights}
        seeds = self.recipe.training_seeds
        if self.recipe.distill.control:
            self.trainings["control"] = [self.control(seed) for seed in seeds]
        self.trainings["student"] = [self.student(teachers, seed) for seed in seeds]
        return weights | {role: self._best(role, trainings) for role, trainings in self.trainings.items()}

    def _best(self, role: str, trainings: Sequence[Training]) -> Artifact:
        """Return the training that did best on the validation split, the first of equals, as the role's file."""
        if len(trainings) == 1:
            return trainings[0].weights
        best = max(trainings, key=lambda training: training.rank)
        file = _file(role)
        self.stages.progress.note(
            f"{role}: seed {best.seed} is the best on the validation split ({share(best.rank[0])}), kept as {file}"
        )
        return self.stages.copy(best.weights, file, best.origin)

    def score_seeds(self) -> dict[str, Any] | None:
        """Return what control and student of every seed score, after `train`; None where there is one seed.

        `seeds`, and by role `test_top1` and `validation_top1` of each seed, and `shipped_seed`.
        """
        seeds = self.recipe.training_seeds
        if len(seeds) == 1:
            return None
        origin = Origin(
            stage="seeds",
            settings={"seeds": list(seeds)},
            parents={
                **self.data_parents,
                **{_file(role, t.seed): t.weights.sha256 for role, found in self.trainings.items() for t in found},
            },
            libraries=TRAINING_LIBRARIES,
        )

        def make() -> tuple[bytes, dict[str, Any]]:
            scores = {role: self._scores(trainings) for role, trainings in self.trainings.items()}
            return indented_json({"seeds": list(seeds), **scores}), {}

        scores: dict[str, Any] = json.loads(self.stages.make("seeds.json", origin, make).path.read_bytes())
        return scores

    def _scores(self, trainings: Sequence[Training]) -> dict[str, Any]:
        from edgekd.distillation.running import accuracy

        modules = (self.load(self.recipe.student, training.weights) for training in trainings)
        return {
            "test_top1": [rounded(accuracy(module, self.splits.test)) for module in modules],
            "validation_top1": [training.rank[0] for training in trainings],
            "shipped_seed": max(trainings, key=lambda training: training.rank).seed,
        }

    def teachers(self) -> list[Teaching]:
        """Return every teacher, `[teacher]` first: trained, or as the recipe names it. Images are made of it, too."""
        teachers = [
            Teaching(settings, self._teacher(settings, number), settings.weight)
            for number, settings in enumerate(self.recipe.all_teachers.values())
        ]
        if self.recipe.distill.data_free is not None:
            self.made = self._make_images(teachers[0], self.recipe.distill.data_free)
        return teachers

    def _teacher(self, settings: TeacherSettings, number: int) -> Artifact:
        role = f"teacher-{number + 1}" if number else "teacher"
        if settings.onnx is not None:
            return self._onnx_teacher(role, settings.onnx, settings.contract)
        if settings.checkpoint is not None:
            return self._given_teacher(role, settings, settings.checkpoint)
        seed = (self.recipe.seed + number) % 2**32  # two of the same architecture are to differ
        return self._trained(
            role,
            _file(role),
            settings,
            {key: value for key, value in settings.effective().items() if key != "weight"},
            {},
            lambda checkpoints: self._train_on_labels(settings, settings, f"train the {role}", seed, checkpoints),
            seed,
            settings.checkpoint_s,
        ).weights

    def _given_teacher(self, role: str, settings: TeacherSettings, checkpoint: Path) -> Artifact:
        from edgekd.artifact import sha256_file
        from edgekd.models import count_parameters, dump_weights, load_weights

        origin = Origin(
            stage=role,
            settings=self.architecture(settings),
            parents={"checkpoint": sha256_file(checkpoint, ModelError)},
            libraries=TRAINING_LIBRARIES,
        )

        def make() -> tuple[bytes, dict[str, Any]]:
            module = self.build(settings)
            load_weights(module, checkpoint)
            return dump_weights(module), {"parameters": count_parameters(module)}

        return self.stages.make(_file(role), origin, make)

    def _onnx_teacher(self, role: str, file: Path, contract: Path | None) -> Artifact:
        """Return the file, changed so that it takes what the student takes: all that follows need not know."""
        from edgekd.artifact import sha256_file
        from edgekd.data.contract import read_contract
        from edgekd.distillation.onnx_teacher import adapt, count_parameters

        own = None if contract is None else read_contract(contract)
        origin = Origin(
            stage=role,
            settings={
                "own_contract": None if own is None else own.to_json(),
                "contract": self.contract.to_json(),
            },
            parents={"onnx": sha256_file(file, ModelError)},
            libraries=RUNTIME_LIBRARIES,
        )

        def make() -> tuple[bytes, dict[str, Any]]:
            model = adapt(file, self.contract, own)
            return model.SerializeToString(deterministic=True), {"parameters": count_parameters(model)}

        return self.stages.make(f"{role}.onnx", origin, make)

    def _make_images(self, teacher: Teaching, settings: SynthesisSettings) -> Artifact:
        """Return an `.npz` file of images and labels, made from a teacher."""
        origin = Origin(
            stage="synthesise",
            settings={**self.architecture(teacher.model), **settings.effective(), "seed": self.recipe.seed},
            parents={teacher.weights.path.name: teacher.weights.sha256, **self.data_parents},
            libraries=TRAINING_LIBRARIES,
        )

        def make() -> tuple[bytes, dict[str, Any]]:
            from edgekd.distillation.data_free import synthesise

            made = synthesise(
                self.load(teacher.model, teacher.weights),
                self.contract.shape,
                settings=settings,
                seed=self.recipe.seed,
                progress=self.stages.progress,
            )
            buffer = io.BytesIO()
            arrays: dict[str, Any] = {"labels": made.labels, **made.batch(range(len(made)))}
            np.savez(buffer, **arrays)
            return buffer.getvalue(), {"samples": len(made)}

        return self.stages.make("made.npz", origin, make)

    def _learnt_from(self) -> Samples:
        """Return what the student learns from: the training split, or images made from the teacher."""
        from edgekd.data.opening import open_data

        return self.splits.train if self.made is None else open_data(self.made.path, inputs=())

    def control(self, seed: int) -> Training:
        """Return the student trained without a teacher."""
        settings, model = self.recipe.distill, self.recipe.student
        title = self._titled("train the control (the student without a teacher)", seed)
        return self._trained(
            "control",
            self._place("control", seed),
            model,
            {key: value for key, value in settings.effective().items() if key in TrainingSettings.model_fields},
            {},
            lambda checkpoints: self._train_on_labels(model, settings, title, seed, checkpoints),
            seed,
            settings.checkpoint_s,
        )

    def _titled(self, title: str, seed: int) -> str:
        return title if self.recipe.distill.seeds == 1 else f"{title}, seed {seed}"

    def _place(self, role: str, seed: int) -> str:
        """Return the file of a training: the role's own where there is one seed."""
        return _file(role) if self.recipe.distill.seeds == 1 else _file(role, seed)

    def _train_on_labels(
        self, model: ModelSettings, settings: TrainingSettings, title: str, seed: int, checkpoints: Checkpoints
    ) -> Trained:
        from edgekd.distillation.objective import LabelObjective
        from edgekd.distillation.training import train_network

        return train_network(
            self.build(model, seed),
            self.splits.train,
            self.splits.validation,
            LabelObjective(settings.label_smoothing),
            settings=settings,
            augmentation=self._augmentation(),
            seed=seed,
            checkpoints=checkpoints,
            title=title,
            progress=self.stages.progress,
        )

    def student(self, teachers: Sequence[Teaching], seed: int) -> Training:
        """Return the student, taught by `teachers`; the last of several generations, taught by the one before."""
        settings, count = self.recipe.distill, self.recipe.distill.generations
        for number in range(1, count):
            own = _other(seed, number - 1)
            file = f"generations/student-{seed}-{number}.safetensors"
            taught = self._student(
                teachers, settings, file, own, self._titled(f"distil generation {number} of {count}", seed)
            )
            teachers, settings = [Teaching(self.recipe.student, taught.weights)], settings.next_generation()
        own = _other(seed, count - 1)
        last = self._student(
            teachers, settings, self._place("student", seed), own, self._titled("distil the student", seed)
        )
        return last._replace(seed=seed)

    def _student(
        self, teachers: Sequence[Teaching], settings: DistillSettings, file: str, seed: int, title: str
    ) -> Training:
        # none of these has a say in what a taught student learns
        untouched = {"control", "label_smoothing", "seeds", "generations"}
        weights = {"teacher_weights": [teacher.weight for teacher in teachers]} if len(teachers) > 1 else {}
        return self._trained(
            "student",
            file,
            self.recipe.student,
            {key: value for key, value in settings.effective().items() if key not in untouched} | weights,
            self.student_parents(teachers),
            lambda checkpoints: self.distil(teachers, settings, title, seed, checkpoints),
            seed,
            settings.checkpoint_s,
        )

    def distil(
        self,
        teachers: Sequence[Teaching],
        settings: DistillSettings,
        title: str,
        seed: int,
        checkpoints: Checkpoints,
        *,
        answers: str = "answers",
        after_epoch: Callable[[Sequence[Epoch]], None] | None = None,
    ) -> Trained:
        """Train a student, with settings that need not be the recipe's; see `edgekd.distill`.

        Args:
            teachers: Who teach.
            settings: How.
            title: What the progress is called.
            seed: Of everything.
            checkpoints: Where to save and resume.
            answers: The folder of the teacher's stored answers, within that of the run.
            after_epoch: Called after each epoch.
        """
        from edgekd.distillation.engine import distill

        return distill(
            self.build(self.recipe.student, seed),
            self._asked(teachers),
            self._learnt_from(),
            self.splits.validation,
            transfer=self.splits.transfer,
            peers=[self.build(self.recipe.student, _other(seed, number)) for number in range(1, settings.peers)],
            settings=settings,
            augmentation=self._augmentation(),
            seed=seed,
            checkpoints=checkpoints,
            cache_folder=self.stages.folder / answers,
            cache_is_own=True,
            after_epoch=after_epoch,
            title=title,
            progress=self.stages.progress,
        )

    def student_parents(self, teachers: Sequence[Teaching]) -> dict[str, str]:
        """Return what a student depends on besides the data: its teachers, transfer samples, made images."""
        transfer, made = self.splits.transfer, self.made
        more = {} if transfer is None else {"transfer": transfer.fingerprint}
        more |= {} if made is None else {made.path.name: made.sha256}
        return {teacher.weights.path.name: teacher.weights.sha256 for teacher in teachers} | more

    def _asked(self, teachers: Sequence[Teaching]) -> Teacher:
        """Return who is asked: the teacher, or all of them as one."""
        from edgekd.distillation.ensemble import Teachers

        members = [self._answering(teacher) for teacher in teachers]
        if len(members) == 1:
            return members[0]
        return Teachers(
            members,
            [teacher.weight for teacher in teachers],
            weighting=self.recipe.distill.weighting,
            labels=self._learnt_from().labels,
        )

    def _answering(self, teacher: Teaching) -> Teacher:
        from edgekd.distillation.onnx_teacher import OnnxTeacher
        from edgekd.distillation.teacher import TorchTeacher

        if teacher.weights.path.suffix == ".onnx":
            return OnnxTeacher(teacher.weights.path)
        identity = canonical_json({"weights": teacher.weights.sha256, **self.architecture(teacher.model)})
        return TorchTeacher(self.load(teacher.model, teacher.weights), hashlib.sha256(identity).hexdigest())

    def _trained(
        self,
        role: str,
        file: str,
        model: ModelSettings,
        effective: Mapping[str, Any],
        parents: Mapping[str, str],
        make: Callable[[Checkpoints], Trained],
        seed: int,
        every_s: float,
    ) -> Training:
        from edgekd.distillation.state import Checkpoints
        from edgekd.models import count_parameters, dump_weights

        origin = Origin(
            stage=role,
            settings={**self.architecture(model), **effective, "seed": seed},
            parents={**self.data_parents, **parents},
            libraries=(*TRAINING_LIBRARIES, "onnxruntime")
            if any(name.endswith(".onnx") for name in parents)
            else TRAINING_LIBRARIES,
        )
        checkpoint = self.stages.folder / "checkpoints" / f"{Path(file).stem}.pt"

        def train() -> tuple[bytes, dict[str, Any]]:
            try:
                trained = make(Checkpoints(path=checkpoint, key=origin.key, every_s=every_s))
                content = dump_weights(trained.module)
            except ModelError as error:
                raise ModelError(f"{role} ({model.model}): {error}") from error
            return content, {"parameters": count_parameters(trained.module), **trained.metrics()}

        elsewhere = [place for place in (_file(role), _file(role, seed)) if place != file]
        weights = self.stages.make(file, origin, train, elsewhere=elsewhere, together=True)
        if self.stages.processes.is_main:
            with suppress(OSError):
                checkpoint.unlink()
                checkpoint.parent.rmdir()
        return Training(seed, origin, weights)

    def build(self, model: ModelSettings, seed: int | None = None) -> nn.Module:
        """Return a new network, its weights drawn from the seed: the recipe's by default."""
        import torch

        from edgekd.models import build

        with torch.random.fork_rng():
            torch.manual_seed(self.recipe.seed if seed is None else seed)
            return build(
                model.model,
                classes=len(self.contract.labels),
                shape=self.contract.shape,
                arguments=model.arguments,
                folder=self.recipe.folder,
            )

    def load(self, model: ModelSettings, weights: Artifact) -> nn.Module:
        """Return a network with an artifact's weights."""
        from edgekd.models import load_weights

        module = self.build(model)
        load_weights(module, weights.path)
        return module

    def architecture(self, model: ModelSettings) -> dict[str, Any]:
        """Return what decides a network's form, as JSON data: its name, and the content of a user's own code."""
        from edgekd.models import source_digest

        digest = source_digest(model.model, self.recipe.folder)
        own = {} if digest is None else {"source": digest}
        return {"model": model.model, "arguments": dict(model.arguments), **own}

    def _augmentation(self) -> Any:
        from edgekd.distillation.training import Augmentation

        return Augmentation(crop_padding=self.recipe.data.crop_padding, flip=self.recipe.data.flip)


def _file(role: str, seed: int | None = None) -> str:
    """Return where a role's weights lie; with a seed, where those of one among several seeds do."""
    return f"{role}.safetensors" if seed is None else f"seeds/{role}-{seed}.safetensors"


def _other(seed: int, number: int) -> int:
    """Return the seed of the first weights of a later generation, or of a peer."""
    return (seed + 1000 * number) % 2**32
