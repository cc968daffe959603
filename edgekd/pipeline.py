"""The whole way, in order: recipe, data, teacher, control, student, export, quantize, evaluate, bench, report.

The only place that knows the order. Each stage gives one artifact, made once and reused while nothing it depends
on changed. What a run was in the middle of when it was killed is made again; training continues from its last
checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.artifact import (
    Artifact,
    Origin,
    canonical_json,
    indented_json,
    write_json,
)
from edgekd.errors import MissingExtraError, ModelError
from edgekd.launch import refuse_several
from edgekd.preflight import check_models, check_names
from edgekd.progress import SILENT, Progress
from edgekd.recipe import ModelSettings, Recipe
from edgekd.recipe_file import load_recipe
from edgekd.run_measures import bench_roles, compare_transfer, score_roles
from edgekd.run_report import RunReport, report_content
from edgekd.run_training import Networks
from edgekd.stages import RUNTIME_LIBRARIES, Stages, held_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edgekd.distillation.processes import Processes

PARITY_SAMPLES = 64
EXPORT_LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch")


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
    refuse_several(
        "edgekd run", "train with `edgekd distill` in all of them, then `edgekd run` in one goes on from there"
    )
    with open_run(recipe, output, overrides, progress) as pipeline:
        return pipeline.run()


def distill_recipe(
    recipe: Recipe | str | Path,
    output: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Artifact:
    """Train teacher, control and student of a recipe, and return the student's weights; see `run`.

    Started in several processes, by torchrun or `accelerate launch`, it trains in all of them. The main process alone
    writes and reports, and all of them must see its folder.
    """
    with open_run(recipe, output, overrides, progress) as pipeline:
        return pipeline.networks.train()["student"]


@contextmanager
def open_run(
    recipe: Recipe | str | Path, output: str | Path | None, overrides: Sequence[str], progress: Progress
) -> Iterator[Pipeline]:
    """Hold a run's folder, with the recipe checked and the data shared out; see `run`."""
    settings = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    check_names(settings)
    from edgekd.distillation.processes import join

    processes = join()
    folder = Path(output) if output is not None else Path("runs") / settings.name
    with held_folder(folder, processes):
        yield Pipeline(settings, folder, processes, processes.heard(progress))


class Pipeline:
    """The stages of one run, in one folder."""

    def __init__(self, recipe: Recipe, folder: Path, processes: Processes, progress: Progress) -> None:
        from edgekd.data.splits import open_splits

        self.recipe = recipe
        self.folder = folder
        self.progress = progress
        self.splits = open_splits(recipe.data, recipe.seed)
        self.contract = self.splits.contract
        check_models(recipe, self.contract, progress)
        self.stages = Stages(
            folder=folder, extra={"contract": self.contract.to_json()}, processes=processes, progress=progress
        )
        self.data_parents = self._share_out()
        self.networks = Networks(recipe, self.splits, self.stages, self.data_parents)

    def run(self) -> RunReport:
        """Go the whole way; see the function of that name."""
        weights = self.networks.train()
        models = {role: self.export(role, artifact) for role, artifact in weights.items()}
        roles = {("student-fp32" if role == "student" else role): artifact for role, artifact in models.items()} | {
            "student-int8": self.quantize(models["student"])
        }
        evaluation = self.evaluate(roles)
        bench = bench_roles(roles, self.recipe.bench, self.folder / "bench.json", self.progress)
        parameters = {role: artifact.metrics["parameters"] for role, artifact in weights.items()}
        told = {"seeds": self.networks.score_seeds(), "transfer": self.compare_transfer(models["teacher"])}
        content = report_content(self.recipe, roles, parameters, evaluation, bench, **told)
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

    def _share_out(self) -> dict[str, str]:
        """Return what every stage that sees the data depends on."""
        origin = Origin(
            stage="data",
            # transfer samples are in no split: the student alone depends on them
            settings={**self.recipe.data.effective(), "transfer": None, "seed": self.recipe.seed},
            parents={"source": self.splits.fingerprint},
            libraries=("numpy",),
        )
        indices = {name: values.tolist() for name, values in self.splits.indices.items()}
        counts = {name: len(values) for name, values in indices.items()}
        shared = self.stages.make("splits.json", origin, lambda: (canonical_json(indices), {"samples": counts}))
        # the pixels, the augmentation and the contract, not the indices alone
        return {"data": origin.key, shared.path.name: shared.sha256}

    def export(self, role: str, weights: Artifact) -> Artifact:
        """Return the ONNX file of a role's weights; an ONNX teacher is one already."""
        if weights.path.suffix == ".onnx":
            return weights
        model: ModelSettings = self.recipe.teacher if role == "teacher" else self.recipe.student
        digest = self._recipe_digest(without=("bench", "quantize"))
        origin = Origin(
            stage="export",
            settings={
                **self.networks.architecture(model),
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
                    self.networks.load(model, weights),
                    None,
                    contract=self.contract,
                    inputs=real[self.contract.input],
                    opset=self.recipe.export.opset,
                    metadata={"edgekd.recipe": digest},
                )
            except ModelError as error:
                raise ModelError(f"{role} ({model.model}): {error}") from error
            return exported.content, exported.metrics()

        return self.stages.make(f"{role}.onnx", origin, make)

    def quantize(self, student: Artifact) -> Artifact:
        """Return the student's INT8 file."""
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

        return self.stages.make("student.int8.onnx", origin, make)

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

        artifact = self.stages.make("evaluation.json", origin, make)
        scores: dict[str, dict[str, Any]] = json.loads(artifact.path.read_bytes())
        return scores

    def compare_transfer(self, teacher: Artifact) -> dict[str, Any] | None:
        """Return how the teacher takes the transfer samples beside the test's; None where there are none."""
        transfer = self.splits.transfer
        if transfer is None:
            return None
        origin = Origin(
            stage="transfer",
            parents={teacher.path.name: teacher.sha256, "transfer": transfer.fingerprint, **self.data_parents},
            settings={},
            libraries=(*RUNTIME_LIBRARIES, "scipy"),
        )

        def make() -> tuple[bytes, dict[str, Any]]:
            return indented_json(compare_transfer(teacher, transfer, self.splits.test, self.progress)), {}

        content: dict[str, Any] = json.loads(self.stages.make("transfer.json", origin, make).path.read_bytes())
        return content

    def _recipe_digest(self, *, without: Sequence[str], **effective: Any) -> str:
        """Return the sha256 of the sections that decide a file: its recipe, in one word."""
        sections = {**self.recipe.effective_sections(), **effective}
        deciding = {key: value for key, value in sections.items() if key not in {"name", "search", *without}}
        return hashlib.sha256(canonical_json(deciding)).hexdigest()
