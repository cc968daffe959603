"""The networks of a run: teacher, control and student, each trained once or taken as the recipe names it."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edgekd.artifact import Artifact, Origin, canonical_json
from edgekd.errors import ModelError
from edgekd.recipe import DistillSettings, ModelSettings, Recipe, TrainingSettings
from edgekd.stages import RUNTIME_LIBRARIES, Stages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

    from edgekd.data.splits import Splits
    from edgekd.distillation.teacher import Teacher
    from edgekd.distillation.training import Checkpoints, Trained

TRAINING_LIBRARIES = ("numpy", "torch")


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

    def train(self) -> dict[str, Artifact]:
        """Return the weights by role: teacher, control if asked for, student."""
        weights = {"teacher": self.teacher()}
        if self.recipe.distill.control:
            weights["control"] = self.control()
        weights["student"] = self.student(weights["teacher"])
        return weights

    def teacher(self) -> Artifact:
        """Return the teacher: trained, or as the recipe names it."""
        settings = self.recipe.teacher
        if settings.onnx is not None:
            return self._onnx_teacher(settings.onnx, settings.contract)
        if settings.checkpoint is not None:
            return self._given_teacher(settings.checkpoint)
        return self._trained(
            "teacher",
            settings,
            settings.effective(),
            {},
            lambda checkpoints: self._train_on_labels(settings, settings, "train the teacher", checkpoints),
            settings.checkpoint_s,
        )

    def _given_teacher(self, checkpoint: Path) -> Artifact:
        from edgekd.artifact import sha256_file
        from edgekd.models import count_parameters, dump_weights, load_weights

        origin = Origin(
            stage="teacher",
            settings=self.architecture(self.recipe.teacher),
            parents={"checkpoint": sha256_file(checkpoint, ModelError)},
            libraries=TRAINING_LIBRARIES,
        )

        def make() -> tuple[bytes, dict[str, Any]]:
            module = self.build(self.recipe.teacher)
            load_weights(module, checkpoint)
            return dump_weights(module), {"parameters": count_parameters(module)}

        return self.stages.make("teacher.safetensors", origin, make)

    def _onnx_teacher(self, file: Path, contract: Path | None) -> Artifact:
        """Return the file, changed so that it takes what the student takes: all that follows need not know."""
        from edgekd.artifact import sha256_file
        from edgekd.data.contract import read_contract
        from edgekd.distillation.onnx_teacher import adapt, count_parameters

        own = None if contract is None else read_contract(contract)
        origin = Origin(
            stage="teacher",
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

        return self.stages.make("teacher.onnx", origin, make)

    def control(self) -> Artifact:
        """Return the student trained without a teacher."""
        settings = self.recipe.distill
        title = "train the control (the student without a teacher)"
        return self._trained(
            "control",
            self.recipe.student,
            {key: value for key, value in settings.effective().items() if key in TrainingSettings.model_fields},
            {},
            lambda checkpoints: self._train_on_labels(self.recipe.student, settings, title, checkpoints),
            settings.checkpoint_s,
        )

    def _train_on_labels(
        self, model: ModelSettings, settings: TrainingSettings, title: str, checkpoints: Checkpoints
    ) -> Trained:
        from edgekd.distillation.objective import LabelObjective
        from edgekd.distillation.training import train_network

        return train_network(
            self.build(model),
            self.splits.train,
            self.splits.validation,
            LabelObjective(settings.label_smoothing),
            settings=settings,
            augmentation=self._augmentation(),
            seed=self.recipe.seed,
            checkpoints=checkpoints,
            title=title,
            progress=self.stages.progress,
        )

    def student(self, teacher: Artifact) -> Artifact:
        """Return the student, taught by `teacher`."""
        settings: DistillSettings = self.recipe.distill

        def make(checkpoints: Checkpoints) -> Trained:
            from edgekd.distillation.engine import distill

            return distill(
                self.build(self.recipe.student),
                self._asked(teacher),
                self.splits.train,
                self.splits.validation,
                settings=settings,
                augmentation=self._augmentation(),
                seed=self.recipe.seed,
                checkpoints=checkpoints,
                cache_folder=self.stages.folder / "answers",
                cache_is_own=True,
                title="distil the student",
                progress=self.stages.progress,
            )

        untouched = {"control", "label_smoothing"}  # neither has a say in what a taught student learns
        effective = {key: value for key, value in settings.effective().items() if key not in untouched}
        parents = {teacher.path.name: teacher.sha256}
        return self._trained("student", self.recipe.student, effective, parents, make, settings.checkpoint_s)

    def _asked(self, teacher: Artifact) -> Teacher:
        from edgekd.distillation.onnx_teacher import OnnxTeacher
        from edgekd.distillation.teacher import TorchTeacher

        if self.recipe.teacher.onnx is not None:
            return OnnxTeacher(teacher.path)
        model = self.recipe.teacher
        identity = canonical_json({"weights": teacher.sha256, **self.architecture(model)})
        return TorchTeacher(self.load(model, teacher), hashlib.sha256(identity).hexdigest())

    def _trained(
        self,
        role: str,
        model: ModelSettings,
        effective: Mapping[str, Any],
        parents: Mapping[str, str],
        make: Callable[[Checkpoints], Trained],
        every_s: float,
    ) -> Artifact:
        from edgekd.distillation.training import Checkpoints
        from edgekd.models import count_parameters, dump_weights

        origin = Origin(
            stage=role,
            settings={**self.architecture(model), **effective, "seed": self.recipe.seed},
            parents={**self.data_parents, **parents},
            libraries=(*TRAINING_LIBRARIES, "onnxruntime") if "teacher.onnx" in parents else TRAINING_LIBRARIES,
        )
        checkpoint = self.stages.folder / "checkpoints" / f"{role}.pt"

        def train() -> tuple[bytes, dict[str, Any]]:
            try:
                trained = make(Checkpoints(path=checkpoint, key=origin.key, every_s=every_s))
                content = dump_weights(trained.module)
            except ModelError as error:
                raise ModelError(f"{role} ({model.model}): {error}") from error
            return content, {"parameters": count_parameters(trained.module), **trained.metrics()}

        artifact = self.stages.make(f"{role}.safetensors", origin, train)
        with suppress(OSError):
            checkpoint.unlink()
            checkpoint.parent.rmdir()
        return artifact

    def build(self, model: ModelSettings) -> nn.Module:
        """Return a new network, its weights drawn from the recipe's seed."""
        import torch

        from edgekd.models import build

        with torch.random.fork_rng():
            torch.manual_seed(self.recipe.seed)
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
