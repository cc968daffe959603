"""The networks of a run: teacher, control and student, each trained once or taken as the recipe names it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgekd.artifact import Artifact, Origin, indented_json, rounded
from edgekd.recipe import DistillSettings, Recipe, TrainingSettings
from edgekd.run_networks import TRAINING_LIBRARIES, NetworkStages, Training, weights_file
from edgekd.run_teachers import Teaching, ask, make_images, make_teachers
from edgekd.text import share

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgekd.data.samples import Samples
    from edgekd.data.splits import Splits
    from edgekd.distillation.state import Checkpoints, Epoch
    from edgekd.distillation.training import Trained
    from edgekd.stages import Stages


class Networks(NetworkStages):
    """Teacher, control and student of one recipe, as stages of one folder."""

    def __init__(self, recipe: Recipe, splits: Splits, stages: Stages, data_parents: Mapping[str, str]) -> None:
        """See `NetworkStages`."""
        super().__init__(recipe, splits, stages, data_parents)
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
        file = weights_file(role)
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
        files = {
            weights_file(role, training.seed): training.weights.sha256
            for role, trainings in self.trainings.items()
            for training in trainings
        }
        origin = Origin(
            stage="seeds",
            settings={"seeds": list(seeds)},
            parents={**self.data_parents, **files},
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
        teachers = make_teachers(self)
        if self.recipe.distill.data_free is not None:
            self.made = make_images(self, teachers[0], self.recipe.distill.data_free)
        return teachers

    def _learnt_from(self) -> Samples:
        """Return what the student learns from: the training split, or images made from the teacher."""
        from edgekd.data.opening import open_data

        return self.splits.train if self.made is None else open_data(self.made.path, inputs=())

    def control(self, seed: int) -> Training:
        """Return the student trained without a teacher."""
        settings, model = self.recipe.distill, self.recipe.student
        title = self._titled("train the control (the student without a teacher)", seed)
        return self.trained(
            "control",
            self._place("control", seed),
            model,
            {key: value for key, value in settings.effective().items() if key in TrainingSettings.model_fields},
            {},
            lambda checkpoints: self.train_on_labels(model, settings, title, seed, checkpoints),
            seed,
            settings.checkpoint_s,
        )

    def _titled(self, title: str, seed: int) -> str:
        return title if self.recipe.distill.seeds == 1 else f"{title}, seed {seed}"

    def _place(self, role: str, seed: int) -> str:
        """Return the file of a training: the role's own where there is one seed."""
        return weights_file(role) if self.recipe.distill.seeds == 1 else weights_file(role, seed)

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
        return self.trained(
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

        samples = self._learnt_from()
        return distill(
            self.build(self.recipe.student, seed),
            ask(self, teachers, samples),
            samples,
            self.splits.validation,
            transfer=self.splits.transfer,
            peers=[self.build(self.recipe.student, _other(seed, number)) for number in range(1, settings.peers)],
            settings=settings,
            augmentation=self.augmentation(),
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


def _other(seed: int, number: int) -> int:
    """Return the seed of the first weights of a later generation, or of a peer."""
    return (seed + 1000 * number) % 2**32
