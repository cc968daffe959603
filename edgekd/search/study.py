"""The verb behind `edgekd distill --search`: students trained with other settings, judged on the validation split.

Each trial is a whole training of the recipe's seed. The study lies in a SQLite file under its key, which is a hash of
all that decides a trial's result: another recipe never continues it. What is drawn is a function of the recipe's seed
and of the finished trials, so a search that was killed ends with the trials of an undisturbed one.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgekd.artifact import Origin, canonical_json, rounded, write_bytes, write_json
from edgekd.errors import DataError, DivergedError, ModelError, require_extra, writing
from edgekd.launch import refuse_several
from edgekd.pipeline import open_run
from edgekd.preflight import check_models
from edgekd.progress import SILENT, Progress
from edgekd.search.space import DIGITS, Draw, bounds, is_of_features, own_draw, section_of, settings_of, toml_value
from edgekd.text import draw_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

    from edgekd.distillation.state import Epoch
    from edgekd.pipeline import Pipeline
    from edgekd.recipe import Recipe

SCHEMA = "edgekd.search/1"
WARM_UP_TRIALS = 5  # that are not stopped early: what the others are compared with
LIBRARIES = ("numpy", "optuna", "torch")
UNTOUCHED = {"control", "label_smoothing", "seeds", "generations"}  # have no say in what a taught student learns


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found.

    Attributes:
        folder: Where `search.json`, the study and the best settings (`best.toml`) lie.
        content: `search.json`, in the form `edgekd.search/1`.
    """

    folder: Path
    content: Mapping[str, Any]


def search_recipe(
    recipe: Recipe | str | Path,
    output: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    progress: Progress = SILENT,
) -> SearchResult:
    """Search for settings of `[distill]` as the recipe's `[search]` says, or continue the search.

    Args:
        recipe: A TOML file, or settings.
        output: The run's folder; `runs/<recipe name>` by default.
        overrides: `"section.key=value"` each, for a recipe given as a file.
        progress: Listener.

    Raises:
        DataError: the study's file is damaged.
        ModelError: no trial came to an end.
        MissingExtraError: optuna is not installed.
        EdgekdError: whatever stops a training; finished trials stay, and searching again continues.
    """
    refuse_several("a search", "start it without torchrun")
    require_extra("train", "optuna")
    with open_run(recipe, output, overrides, progress) as run, _quiet():
        return _Search(run, progress).go_on()


class _Search:
    """One study of one recipe."""

    def __init__(self, run: Pipeline, progress: Progress) -> None:
        self.run = run
        self.progress = progress
        self.base = run.recipe.distill
        self.space = run.recipe.search
        self.folder = run.folder / "search"
        self._check_methods()
        self.teachers = run.networks.teachers()
        self.key = self._key()
        if self.base.cache is None:
            progress.note("the teacher runs in every step of every trial; with [distill.cache] it is asked once")

    def go_on(self) -> SearchResult:
        """Try until there are as many trials as the recipe asks for, and write what was found."""
        with _opened(self.folder / "study.db", self.key, self.space.pruner, self.base.epochs) as study:
            _fail_interrupted(study)
            done = _finished(study)
            if done:
                self.progress.note(f"search: {len(done)} of {self.space.trials} trials were made earlier")
            while len(done) < self.space.trials:
                self._try_one(study, len(done))
                done = _finished(study)
            content = self._content(done[: self.space.trials])
        if content["best"] is None:
            reason = next((t["problem"] for t in content["trials"] if t["problem"]), "")
            raise ModelError(f"none of {self.space.trials} trials came to an end: {reason}")
        section = "\n".join(f"{key} = {toml_value(value)}" for key, value in content["best"]["distill"].items())
        head = "# The best settings of a search: they replace the recipe's section.\n[distill]\n"
        write_bytes(self.folder / "best.toml", f"{head}{section}\n".encode())
        write_json(self.folder / "search.json", content)
        return SearchResult(folder=self.folder, content=content)

    def _check_methods(self) -> None:
        """See, before the teacher is trained, that every method can be computed on this data."""
        limits = bounds(self.space, self.base)
        for method in self.space.methods:
            draw = Draw(method=method, **{name: low for name, (low, _) in limits.items()})
            tried = self.run.recipe.model_copy(update={"distill": settings_of(section_of(self.base, draw))})
            check_models(tried, self.run.contract)

    def _key(self) -> str:
        """Return the hash of all that decides a trial's result."""
        networks = self.run.networks
        origin = Origin(
            stage="search",
            settings={
                **networks.architecture(self.run.recipe.student),
                "distill": {key: value for key, value in self.base.effective().items() if key not in UNTOUCHED},
                "methods": list(self.space.methods),
                "bounds": bounds(self.space, self.base),
                "pruner": self.space.pruner,
                "teacher_weights": [teacher.weight for teacher in self.teachers],
                "seed": self.run.recipe.seed,
            },
            parents={**networks.student_parents(self.teachers), **self.run.data_parents},
            libraries=LIBRARIES,
        )
        return origin.key

    def _try_one(self, study: Study, number: int) -> None:
        """Train one student, and tell the study how it did."""
        import optuna

        seed = int.from_bytes(hashlib.sha256(f"{self.key} {number}".encode()).digest()[:4], "big")
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        own = own_draw(self.space, self.base) if number == 0 else None
        if own is not None and not study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)):
            study.enqueue_trial(asdict(own))
        trial = study.ask()
        draw = self._drawn(trial, own)
        trial.set_user_attr("draw", asdict(draw))
        title = f"trial {number + 1} of {self.space.trials} ({draw_text(asdict(draw))})"
        checkpoint = self.run.folder / "checkpoints" / "search.pt"
        try:
            best = self._train(trial, draw, title, checkpoint)
        except optuna.TrialPruned:
            self.progress.note(f"{title}: stopped, the earlier ones were better by then")
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except DivergedError as error:
            self.progress.note(f"{title}: {error}")
            trial.set_user_attr("problem", str(error))
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, best)
        with suppress(OSError):
            checkpoint.unlink()
            checkpoint.parent.rmdir()

    def _drawn(self, trial: Trial, own: Draw | None) -> Draw:
        method = trial.suggest_categorical("method", list(self.space.methods))
        numbers = {}
        for name, (low, high) in bounds(self.space, self.base).items():
            value = trial.suggest_float(name, low, high, log=name != "alpha")
            numbers[name] = min(max(rounded(value, DIGITS), low), high)
        return own or Draw(method=method, **numbers)

    def _train(self, trial: Trial, draw: Draw, title: str, checkpoint: Path) -> float:
        """Return the kept epoch's accuracy on the validation split, or raise `TrialPruned`."""
        from edgekd.distillation.state import Checkpoints

        settings = settings_of(section_of(self.base, draw))
        identity = hashlib.sha256(canonical_json({"study": self.key, **asdict(draw)})).hexdigest()
        told = 0

        def tell(history: Sequence[Epoch]) -> None:
            nonlocal told
            for step in range(told, len(history)):  # one; several where the training was resumed
                trial.report(history[step].validation_top1, step)
            told = len(history)
            kept = max(range(told), key=lambda step: _rank(history[step])) if settings.keep == "best" else told - 1
            figures = {
                "validation_top1": history[kept].validation_top1,
                "validation_loss": history[kept].validation_loss,
                "kept_epoch": kept,
                "epochs": told,
            }
            trial.set_user_attr("figures", figures)

        def after_epoch(history: Sequence[Epoch]) -> None:
            from optuna import TrialPruned

            tell(history)
            if told < settings.epochs and trial.should_prune():
                raise TrialPruned

        trained = self.run.networks.distil(
            self.teachers,
            settings,
            title,
            self.run.recipe.seed,
            Checkpoints(path=checkpoint, key=identity, every_s=settings.checkpoint_s),
            answers="answers-features" if is_of_features(draw.method) else "answers",
            after_epoch=after_epoch,
        )
        tell(trained.history)
        return trained.history[trained.kept_epoch].validation_top1

    def _content(self, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
        rows = [_row(number, trial) for number, trial in enumerate(trials, 1)]
        ended = [row for row in rows if row["state"] == "complete"]
        best = max(ended, key=lambda row: (row["validation_top1"], -row["validation_loss"]), default=None)
        return {
            "schema": SCHEMA,
            "name": self.run.recipe.name,
            "key": self.key,
            "seed": self.run.recipe.seed,
            "validation_samples": len(self.run.splits.validation),
            "methods": list(self.space.methods),
            "bounds": {name: list(limits) for name, limits in bounds(self.space, self.base).items()},
            "trials": rows,
            "best": None if best is None else self._best(best),
        }

    def _best(self, row: Mapping[str, Any]) -> dict[str, Any]:
        draw = Draw(**{field: row[field] for field in ("method", "temperature", "alpha", "learning_rate")})
        section = section_of(self.base, draw)
        return {"trial": row["trial"], "distill": section, "set": f"distill={toml_value(section)}"}


def _row(number: int, trial: FrozenTrial) -> dict[str, Any]:
    told = trial.user_attrs
    state = "diverged" if "problem" in told else trial.state.name.lower()
    none = {"validation_top1": None, "validation_loss": None, "kept_epoch": None, "epochs": 0}
    figures = told.get("figures", none)
    return {"trial": number, "state": state, **told["draw"], **figures, "problem": told.get("problem")}


def _finished(study: Study) -> list[FrozenTrial]:
    """Return the trials that ended, in order: to their last epoch, or stopped early."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _fail_interrupted(study: Study) -> None:
    """Book the trial that a killed search was in the middle of as failed; it is drawn again."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


@contextmanager
def _opened(path: Path, key: str, pruner: str, epochs: int) -> Iterator[Study]:
    """Hold the study of that key in a SQLite file.

    Raises:
        DataError: the file is damaged, or of another version of optuna.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    rule: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if pruner == "median":
        rule = optuna.pruners.MedianPruner(n_startup_trials=WARM_UP_TRIALS, n_warmup_steps=epochs // 3)
    remedy = "delete this file to search anew"
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    except (SQLAlchemyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: not a study that can be continued: {reason}; {remedy}") from error
    try:
        yield optuna.create_study(
            storage=storage, study_name=key, direction="maximize", pruner=rule, load_if_exists=True
        )
    except SQLAlchemyError as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: this study cannot be read or written: {reason}; {remedy}") from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep optuna from saying on standard error what is said here."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _rank(epoch: Epoch) -> tuple[float, float]:
    return epoch.validation_top1, -epoch.validation_loss
