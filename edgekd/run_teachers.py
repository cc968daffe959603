"""The teachers of a run: trained, or as the recipe names them; images made from one; who is asked."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgekd.artifact import Artifact, Origin, canonical_json, sha256_file
from edgekd.errors import ModelError
from edgekd.run_networks import TRAINING_LIBRARIES, NetworkStages, weights_file
from edgekd.stages import RUNTIME_LIBRARIES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgekd.data.samples import Samples
    from edgekd.distillation.teacher import Teacher
    from edgekd.recipe import ModelSettings, TeacherSettings
    from edgekd.terms import SynthesisSettings


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


def make_teachers(networks: NetworkStages) -> list[Teaching]:
    """Return every teacher of the recipe, `[teacher]` first: trained, or as the recipe names it."""
    return [
        Teaching(settings, _teacher(networks, settings, number), settings.weight)
        for number, settings in enumerate(networks.recipe.all_teachers.values())
    ]


def _teacher(networks: NetworkStages, settings: TeacherSettings, number: int) -> Artifact:
    role = f"teacher-{number + 1}" if number else "teacher"
    if settings.onnx is not None:
        return _onnx_teacher(networks, role, settings.onnx, settings.contract)
    if settings.checkpoint is not None:
        return _given_teacher(networks, role, settings, settings.checkpoint)
    seed = (networks.recipe.seed + number) % 2**32  # two of the same architecture are to differ
    return networks.trained(
        role,
        weights_file(role),
        settings,
        {key: value for key, value in settings.effective().items() if key != "weight"},
        {},
        lambda checkpoints: networks.train_on_labels(settings, settings, f"train the {role}", seed, checkpoints),
        seed,
        settings.checkpoint_s,
    ).weights


def _given_teacher(networks: NetworkStages, role: str, settings: TeacherSettings, checkpoint: Path) -> Artifact:
    from edgekd.models import count_parameters, dump_weights, load_weights

    origin = Origin(
        stage=role,
        settings=networks.architecture(settings),
        parents={"checkpoint": sha256_file(checkpoint, ModelError)},
        libraries=TRAINING_LIBRARIES,
    )

    def make() -> tuple[bytes, dict[str, Any]]:
        module = networks.build(settings)
        load_weights(module, checkpoint)
        return dump_weights(module), {"parameters": count_parameters(module)}

    return networks.stages.make(weights_file(role), origin, make)


def _onnx_teacher(networks: NetworkStages, role: str, file: Path, contract: Path | None) -> Artifact:
    """Return the file, changed so that it takes what the student takes: all that follows need not know."""
    from edgekd.data.contract import read_contract
    from edgekd.distillation.onnx_teacher import adapt, count_parameters

    own = None if contract is None else read_contract(contract)
    origin = Origin(
        stage=role,
        settings={
            "own_contract": None if own is None else own.to_json(),
            "contract": networks.contract.to_json(),
        },
        parents={"onnx": sha256_file(file, ModelError)},
        libraries=RUNTIME_LIBRARIES,
    )

    def make() -> tuple[bytes, dict[str, Any]]:
        model = adapt(file, networks.contract, own)
        return model.SerializeToString(deterministic=True), {"parameters": count_parameters(model)}

    return networks.stages.make(f"{role}.onnx", origin, make)


def make_images(networks: NetworkStages, teacher: Teaching, settings: SynthesisSettings) -> Artifact:
    """Return an `.npz` file of images and labels, made from a teacher."""
    origin = Origin(
        stage="synthesise",
        settings={**networks.architecture(teacher.model), **settings.effective(), "seed": networks.recipe.seed},
        parents={teacher.weights.path.name: teacher.weights.sha256, **networks.data_parents},
        libraries=TRAINING_LIBRARIES,
    )

    def make() -> tuple[bytes, dict[str, Any]]:
        from edgekd.distillation.data_free import synthesise

        made = synthesise(
            networks.load(teacher.model, teacher.weights),
            networks.contract.shape,
            settings=settings,
            seed=networks.recipe.seed,
            progress=networks.stages.progress,
        )
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"labels": made.labels, **made.batch(range(len(made)))}
        np.savez(buffer, **arrays)
        return buffer.getvalue(), {"samples": len(made)}

    return networks.stages.make("made.npz", origin, make)


def ask(networks: NetworkStages, teachers: Sequence[Teaching], samples: Samples) -> Teacher:
    """Return who is asked: the teacher, or all of them as one."""
    from edgekd.distillation.ensemble import Teachers

    members = [_answering(networks, teacher) for teacher in teachers]
    if len(members) == 1:
        return members[0]
    return Teachers(
        members,
        [teacher.weight for teacher in teachers],
        weighting=networks.recipe.distill.weighting,
        labels=samples.labels,
    )


def _answering(networks: NetworkStages, teacher: Teaching) -> Teacher:
    from edgekd.distillation.onnx_teacher import OnnxTeacher
    from edgekd.distillation.teacher import TorchTeacher

    if teacher.weights.path.suffix == ".onnx":
        return OnnxTeacher(teacher.weights.path)
    identity = canonical_json({"weights": teacher.weights.sha256, **networks.architecture(teacher.model)})
    return TorchTeacher(networks.load(teacher.model, teacher.weights), hashlib.sha256(identity).hexdigest())
