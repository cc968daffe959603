"""The whole way, in order: recipe, data, teacher, control, student, export, quantize, evaluate, bench, report.

The only place that knows the order. Each stage gives one artifact, made once and reused while nothing it depends
on changed. What a run was in the middle of when it was killed is made again; training continues from its last
checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.artifact import (
    Artifact,
    Origin,
    canonical_json,
    find,
    indented_json,
    locked_folder,
    store,
    write_json,
)
from edgekd.errors import MissingExtraError, ModelError
from edgekd.preflight import check_models, check_names
from edgekd.progress import SILENT, Progress
from edgekd.recipe import DistillSettings, ModelSettings, Recipe, TrainingSettings
from edgekd.recipe_file import load_recipe
from edgekd.run_measures import bench_roles, score_roles
from edgekd.run_report import RunReport, report_content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

    from edgekd.distillation.state import Checkpoints
    from edgekd.distillation.teacher import Teacher
    from edgekd.distillation.training import Trained

PARITY_SAMPLES = 64
TRAINING_LIBRARIES = ("numpy", "torch")
EXPORT_LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch")
RUNTIME_LIBRARIES = ("numpy", "onnx", "onnxruntime")


def run(
    recipe: Recipe | str | Path,
    output: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    progress: Progress = SILENT,
) -> RunReport:
    """Turn a recipe into a verified INT8 model.

    Args:
        recipe: A TOML file, or settings.
        output: The run's folder; `runs/<recipe name>` by default.
        overrides: `"section.key=value"` each, for a recipe given as a file.
        progress: Listener.

    Returns:
        The report. A missed accuracy gate is in it: `RunReport.require_gate` raises.

    Raises:
        EdgekdError: whatever stops it; finished stages stay, and running again continues.
    """
    with _open(recipe, output, overrides, progress) as pipeline:
        return pipeline.run()


def distill_recipe(
    recipe: Recipe | str | Path,
    output: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Artifact:
    """Train teacher, control and student of a recipe, and return the student's weights; see `run`."""
    with _open(recipe, output, overrides, progress) as pipeline:
        return pipeline.train()["student"]


@contextmanager
def _open(
    recipe: Recipe | str | Path, output: str | Path | None, overrides: Sequence[str], progress: Progress
) -> Iterator[_Pipeline]:
    settings = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    with locked_folder(Path(output) if output is not None else Path("runs") / settings.name) as folder:
        yield _Pipeline(settings, folder, progress)


class _Pipeline:
    """The stages of one run, in one folder."""

    def __init__(self, recipe: Recipe, folder: Path, progress: Progress) -> None:
        from edgekd.data.splits import open_splits

        check_names(recipe)
        self.recipe = recipe
        self.folder = folder
        self.progress = progress
        self.splits = open_splits(recipe.data, recipe.seed)
        self.contract = self.splits.contract
        check_models(recipe, self.contract, progress)
        self.data_parents = self._share_out()

    def run(self) -> RunReport:
        weights = self.train()
        models = {role: self.export(role, artifact) for role, artifact in weights.items()}
        roles = {("student-fp32" if role == "student" else role): artifact for role, artifact in models.items()} | {
            "student-int8": self.quantize(models["student"])
        }
        evaluation = self.evaluate(roles)
        bench = bench_roles(roles, self.recipe.bench, self.folder / "bench.json", self.progress)
        parameters = {role: artifact.metrics["parameters"] for role, artifact in weights.items()}
        content = report_content(self.recipe, roles, parameters, evaluation, bench)
        write_json(self.folder / "report.json", content)
        self._draw()
        return RunReport(folder=self.folder, content=content)

    def _draw(self) -> None:
        """Show the run on a page, where the extra for it is installed."""
        from edgekd.reporting.page import report

        try:
            report(self.folder, self.folder / "report.html")
        except MissingExtraError as error:
            self.progress.note(f"no report.html: {error}")

    def train(self) -> dict[str, Artifact]:
        """Return the weights by role: teacher, control if asked for, student."""
        weights = {"teacher": self.teacher()}
        if self.recipe.distill.control:
            weights["control"] = self.control()
        weights["student"] = self.student(weights["teacher"])
        return weights

    def stage(self, file: str, origin: Origin, make: Callable[[], tuple[bytes, dict[str, Any]]]) -> Artifact:
        """Return the artifact of that origin, from the folder or made now."""
        path = self.folder / file
        found = find(path, origin)
        if found is not None:
            self.progress.note(f"{origin.stage}: {file} is unchanged, reused")
            return found
        content, metrics = make()
        return store(path, content, origin, metrics=metrics, extra={"contract": self.contract.to_json()})

    def _share_out(self) -> dict[str, str]:
        """Return what every stage that sees the data depends on."""
        origin = Origin(
            stage="data",
            settings={**self.recipe.data.effective(), "seed": self.recipe.seed},
            parents={"source": self.splits.fingerprint},
            libraries=("numpy",),
        )
        indices = {name: values.tolist() for name, values in self.splits.indices.items()}
        counts = {name: len(values) for name, values in indices.items()}
        shared = self.stage("splits.json", origin, lambda: (canonical_json(indices), {"samples": counts}))
        # the pixels, the augmentation and the contract, not the indices alone
        return {"data": origin.key, shared.path.name: shared.sha256}

    def teacher(self) -> Artifact:
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
            settings=self._architecture(self.recipe.teacher),
            parents={"checkpoint": sha256_file(checkpoint, ModelError)},
            libraries=TRAINING_LIBRARIES,
        )

        def make() -> tuple[bytes, dict[str, Any]]:
            module = self.build(self.recipe.teacher)
            load_weights(module, checkpoint)
            return dump_weights(module), {"parameters": count_parameters(module)}

        return self.stage("teacher.safetensors", origin, make)

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

        return self.stage("teacher.onnx", origin, make)

    def control(self) -> Artifact:
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
            progress=self.progress,
        )

    def student(self, teacher: Artifact) -> Artifact:
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
                cache_folder=self.folder / "answers",
                cache_is_own=True,
                title="distil the student",
                progress=self.progress,
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
        identity = canonical_json({"weights": teacher.sha256, **self._architecture(model)})
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
        from edgekd.distillation.state import Checkpoints
        from edgekd.models import count_parameters, dump_weights

        origin = Origin(
            stage=role,
            settings={**self._architecture(model), **effective, "seed": self.recipe.seed},
            parents={**self.data_parents, **parents},
            libraries=(*TRAINING_LIBRARIES, "onnxruntime") if "teacher.onnx" in parents else TRAINING_LIBRARIES,
        )
        checkpoint = self.folder / "checkpoints" / f"{role}.pt"

        def train() -> tuple[bytes, dict[str, Any]]:
            try:
                trained = make(Checkpoints(path=checkpoint, key=origin.key, every_s=every_s))
                content = dump_weights(trained.module)
            except ModelError as error:
                raise ModelError(f"{role} ({model.model}): {error}") from error
            return content, {"parameters": count_parameters(trained.module), **trained.metrics()}

        artifact = self.stage(f"{role}.safetensors", origin, train)
        with suppress(OSError):
            checkpoint.unlink()
            checkpoint.parent.rmdir()
        return artifact

    def export(self, role: str, weights: Artifact) -> Artifact:
        """Return the ONNX file of a role's weights; an ONNX teacher is one already."""
        if weights.path.suffix == ".onnx":
            return weights
        model: ModelSettings = self.recipe.teacher if role == "teacher" else self.recipe.student
        digest = self._recipe_digest(without=("bench", "quantize"))
        origin = Origin(
            stage="export",
            settings={
                **self._architecture(model),
                **self.recipe.export.effective(),
                "recipe": digest,
                "input": self.contract.input,
                "output": self.contract.output,
            },
            parents={weights.path.name: weights.sha256, **self.data_parents},
            libraries=EXPORT_LIBRARIES,
        )

        def make() -> tuple[bytes, dict[str, Any]]:
            from edgekd.onnx_export import export

            self.progress.note(f"export: {role}")
            real = self.splits.calibration.batch(range(min(PARITY_SAMPLES, len(self.splits.calibration))))
            try:
                exported = export(
                    self.load(model, weights),
                    None,
                    contract=self.contract,
                    inputs=real[self.contract.input],
                    opset=self.recipe.export.opset,
                    metadata={"edgekd.recipe": digest},
                )
            except ModelError as error:
                raise ModelError(f"{role} ({model.model}): {error}") from error
            return exported.content, exported.metrics()

        return self.stage(f"{role}.onnx", origin, make)

    def quantize(self, student: Artifact) -> Artifact:
        from edgekd.quantization.modes import open_job
        from edgekd.quantization.static import Method
        from edgekd.targets import find_target

        settings = self.recipe.quantize
        target = find_target(settings.target).name
        effective = {"mode": settings.mode, "target": target, "max_drop": settings.max_drop}
        calibrated: dict[str, Any] = {}
        if settings.mode == "static":
            samples = min(settings.samples or len(self.splits.calibration), len(self.splits.calibration))
            method = Method(**{field.name: getattr(settings, field.name) for field in fields(Method)})
            effective |= {"samples": samples, **asdict(method)}
            calibrated = {"method": method, "samples": samples}
        digest = self._recipe_digest(without=("bench",), quantize=effective)
        origin = Origin(
            stage="quantize",
            settings={**effective, "recipe": digest},
            parents={student.path.name: student.sha256, **self.data_parents},
            libraries=RUNTIME_LIBRARIES,
        )

        def make() -> tuple[bytes, dict[str, Any]]:
            job = open_job(
                student.path,
                self.splits.calibration if settings.mode == "static" else None,
                mode=settings.mode,
                **calibrated,
                evaluation=None
                if settings.max_drop is None
                else self.splits.validation,  # the test split only judges
                max_drop=settings.max_drop,
                metadata={"edgekd.recipe": digest},
                progress=self.progress,
            )
            quantized = job.make(find_target(target), "student.int8.onnx")
            return quantized.content, quantized.to_json()

        return self.stage("student.int8.onnx", origin, make)

    def evaluate(self, roles: Mapping[str, Artifact]) -> dict[str, dict[str, Any]]:
        """Return the figures of each file on the test split, by role. INT8 kernels differ between machines."""
        from edgekd.drivers.host import read_facts

        origin = Origin(
            stage="evaluate",
            settings={"roles": list(roles), "machine": read_facts().target},
            parents={artifact.path.name: artifact.sha256 for artifact in roles.values()} | self.data_parents,
            libraries=RUNTIME_LIBRARIES,
        )

        def make() -> tuple[bytes, dict[str, Any]]:
            return indented_json(score_roles(roles, self.splits.test, self.progress)), {}

        artifact = self.stage("evaluation.json", origin, make)
        scores: dict[str, dict[str, Any]] = json.loads(artifact.path.read_bytes())
        return scores

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

    def _architecture(self, model: ModelSettings) -> dict[str, Any]:
        from edgekd.models import source_digest

        digest = source_digest(model.model, self.recipe.folder)
        own = {} if digest is None else {"source": digest}
        return {"model": model.model, "arguments": dict(model.arguments), **own}

    def _augmentation(self) -> Any:
        from edgekd.distillation.training import Augmentation

        return Augmentation(crop_padding=self.recipe.data.crop_padding, flip=self.recipe.data.flip)

    def _recipe_digest(self, *, without: Sequence[str], **effective: Any) -> str:
        """Return the sha256 of the sections that decide a file: its recipe, in one word."""
        sections = {**self.recipe.effective_sections(), **effective}
        deciding = {key: value for key, value in sections.items() if key not in {"name", *without}}
        return hashlib.sha256(canonical_json(deciding)).hexdigest()
