"""A search: what it tries, that it continues what was begun, and that other recipes have other studies."""

from __future__ import annotations

import json
import math
import re
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from listening import Heard
from tiny_run import distilled, write_recipe

from edgekd.distillation.state import Epoch
from edgekd.distillation.training import Trained
from edgekd.errors import DataError, DivergedError, MissingExtraError, ModelError, RecipeError, UsageError
from edgekd.recipe import DistillSettings, SearchSettings
from edgekd.recipe_file import load_recipe
from edgekd.run_training import Networks
from edgekd.search.space import Draw, bounds, section_of, settings_of
from edgekd.search.study import search_recipe
from edgekd.terms import TapSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

TRIALS = 8
DOCUMENT = Path(__file__).parents[2] / "docs" / "distillation.md"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let students learn the better the nearer their learning rate is to 0.1, without any training."""

    def distil(
        self: Networks, teachers: Any, settings: Any, title: str, *_: Any, after_epoch: Any, **__: Any
    ) -> Trained:
        self.stages.progress.note(title)
        history = []
        for number in range(1, settings.epochs + 1):
            off = abs(math.log10(settings.learning_rate / 0.1))
            top1 = round(1 / (1 + off + 1 / number), 6)
            history.append(Epoch(loss=1.0, validation_loss=1 - top1, validation_top1=top1))
            after_epoch(history)
        return Trained(
            module=torch.nn.Identity(),
            history=tuple(history),
            best_epoch=len(history) - 1,
            kept_epoch=len(history) - 1,
        )

    monkeypatch.setattr(Networks, "distil", distil)


def searched(recipe: Path, *overrides: str, folder: str = "run", heard: Heard | None = None) -> dict[str, Any]:
    given = [f"search.trials={TRIALS}", "distill.epochs=3", "distill.cache={views = 1}", *overrides]
    found = search_recipe(recipe, recipe.parent / folder, overrides=given, progress=heard or Heard())
    assert json.loads((found.folder / "search.json").read_bytes()) == found.content
    return dict(found.content)


def trainings(heard: Heard) -> list[str]:
    return [title.partition(" (")[0] for title in heard.said if title.startswith("trial ") and title.endswith(")")]


def test_a_search_ends_with_settings_that_can_be_used_as_they_are(recipe: Path) -> None:
    heard = Heard()
    found = searched(recipe, "distill.batch_size=16", heard=heard)
    assert trainings(heard) == [f"trial {number} of {TRIALS}" for number in range(1, TRIALS + 1)]
    assert heard.titles.count("ask the teacher") == 1, "it is asked once, for all trials"
    rows = found["trials"]
    assert [row["trial"] for row in rows] == list(range(1, TRIALS + 1))
    first = {name: rows[0][name] for name in ("method", "temperature", "alpha", "learning_rate")}
    assert first == {"method": "kd", "temperature": 4.0, "alpha": 0.8, "learning_rate": 0.1}, "the recipe's own"
    for row in rows:
        assert row["method"] in found["methods"]
        for name, (low, high) in found["bounds"].items():
            assert low <= row[name] <= high
    ended = [row for row in rows if row["state"] == "complete"]
    best = next(row for row in rows if row["trial"] == found["best"]["trial"])
    assert (best["validation_top1"], -best["validation_loss"]) == max(
        (row["validation_top1"], -row["validation_loss"]) for row in ended
    )

    settings = settings_of(found["best"]["distill"])
    assert (settings.epochs, settings.batch_size, settings.control) == (3, 16, False)
    assert settings.learning_rate == best["learning_rate"]
    assert load_recipe(recipe, [found["best"]["set"]]).distill == settings
    section = tomllib.loads((recipe.parent / "run" / "search" / "best.toml").read_text())
    assert settings_of(section["distill"]) == settings
    distilled(recipe, found["best"]["set"])
    card = json.loads((recipe.parent / "run" / "student.safetensors.card.json").read_bytes())
    assert card["metrics"]["validation_top1"] == best["validation_top1"], "the same training once more"

    listed = set(
        re.findall(r"`([\w.\[\]]+)`", "".join(re.findall(r"^\| (`.*?) \|", DOCUMENT.read_text(), re.MULTILINE)))
    )
    keys = {*found, *(f"trials[].{key}" for key in rows[0]), *(f"best.{key}" for key in found["best"])}
    assert keys <= listed


@pytest.mark.usefixtures("untrained")
def test_a_search_is_continued_and_a_longer_one_adds_to_it(recipe: Path) -> None:
    whole = searched(recipe)
    heard = Heard()
    assert searched(recipe, heard=heard) == whole
    assert trainings(heard) == []
    assert f"search: {TRIALS} of {TRIALS} trials were made earlier" in heard.notes
    longer = searched(recipe, f"search.trials={TRIALS + 2}", heard=heard)
    assert trainings(heard) == [f"trial {TRIALS + number} of {TRIALS + 2}" for number in (1, 2)]
    assert longer["trials"][:TRIALS] == whole["trials"]
    assert searched(recipe) == whole, "a shorter one shows its own trials"


def kill(monkeypatch: pytest.MonkeyPatch, recipe: Path, trial: int, epoch: int) -> None:
    """Search until that epoch of that trial ended, both from 0, and be interrupted."""
    distil, trials, killed = Networks.distil, [0], [0]

    def until(self: Networks, *given: Any, after_epoch: Any, **values: Any) -> Any:
        def after(history: Sequence[Any]) -> None:
            after_epoch(history)
            if (trials[0], len(history) - 1) == (trial, epoch):
                killed[0] += 1
                raise KeyboardInterrupt

        result = distil(self, *given, after_epoch=after, **values)
        trials[0] += 1
        return result

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(Networks, "distil", until)
        searched(recipe, "distill.checkpoint_s=0.0", folder="killed")
    assert killed == [1]


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(("trial", "epoch"), [(0, 0), (0, 2), (4, 1)])
def test_a_killed_search_ends_like_an_undisturbed_one(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, trial: int, epoch: int
) -> None:
    whole = searched(recipe, "distill.checkpoint_s=0.0", folder="undisturbed")
    kill(monkeypatch, recipe, trial, epoch)
    heard = Heard()
    assert searched(recipe, "distill.checkpoint_s=0.0", folder="killed", heard=heard) == whole
    assert len(trainings(heard)) == TRIALS - trial


def test_a_killed_trial_is_continued_from_its_checkpoint(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = searched(recipe, "distill.checkpoint_s=0.0", folder="undisturbed")
    kill(monkeypatch, recipe, 3, 2)
    heard = Heard()
    assert searched(recipe, "distill.checkpoint_s=0.0", folder="killed", heard=heard) == whole
    (note,) = [note for note in heard.notes if "continues at epoch" in note]
    assert re.match(r"trial 4 of 8 \(.*\): continues at epoch 3 of 3", note)
    assert not list((recipe.parent / "killed").glob("checkpoints/*"))


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("override", "continues"),
    [
        ("distill.control=true", True),
        ("distill.seeds=3", True),
        ("quantize.samples=4", True),
        ("seed=1", False),
        ("distill.epochs=2", False),
        ("student.model=mlp-5", False),
        ("teacher.epochs=2", False),
        ("search.alpha=[0.5, 0.6]", False),
        ("search.methods=['kd']", False),
        ("data.flip=true", False),
    ],
)
def test_only_what_decides_a_trial_makes_another_study(recipe: Path, override: str, continues: bool) -> None:
    first = searched(recipe, "search.trials=1")
    heard = Heard()
    second = searched(recipe, "search.trials=1", override, heard=heard)
    assert (second["key"] == first["key"]) is continues
    assert (trainings(heard) == []) is continues
    assert searched(recipe, "search.trials=1") == first, "the first study is still there"


def test_methods_of_features_stand_beside_kd_and_have_answers_of_their_own(recipe: Path) -> None:
    overrides = (
        "search.methods=['sp', 'kd']", "distill.taps.pairs=[['fc1', 'fc1']]", "search.trials=6",
        "student.model=resnet8x0.25", "teacher.model=resnet8x0.25", "distill.taps.pairs=[['layer1', 'layer1']]",
    )  # fmt: skip
    heard = Heard()
    found = searched(recipe, *overrides, heard=heard)
    assert {row["method"] for row in found["trials"]} == {"sp", "kd"}
    assert heard.titles.count("ask the teacher") == 2
    only = searched(recipe, *overrides, "search.methods=['sp']", "search.trials=1")
    assert [term["kind"] for term in only["best"]["distill"]["terms"]] == ["kd", "sp", "ce"]
    with pytest.raises(UsageError, match="layer9"):
        searched(
            recipe, *overrides, "distill.taps.pairs=[['layer9', 'layer1']]", folder="new", heard=(heard := Heard())
        )
    assert heard.titles == [], "found before the teacher is trained"


@pytest.mark.parametrize("method", ["kd", "dist", "sp"])
def test_students_that_learn_from_each_other_do_so_in_every_trial(method: str) -> None:
    base = DistillSettings(peers=2, taps=TapSettings(pairs=(("layer1", "layer1"),)))
    found = settings_of(section_of(base, Draw(method=method, temperature=2.0, alpha=0.5, learning_rate=0.1)))
    assert (found.peers, found.loss_terms()[-1].kind) == (2, "mutual")


@pytest.mark.parametrize("rate", [1e-12, 1000.0])
def test_the_bounds_of_the_learning_rate_are_within_what_a_recipe_takes(rate: float) -> None:
    base = DistillSettings(learning_rate=rate)
    for bound in bounds(SearchSettings(), base)["learning_rate"]:
        settings_of(section_of(base, Draw(method="dkd", temperature=2.0, alpha=0.5, learning_rate=bound)))


@pytest.mark.usefixtures("untrained")
def test_a_trial_that_diverges_is_worse_than_all_others(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distil = Networks.distil
    count = 0

    def sometimes(self: Networks, *given: Any, **values: Any) -> Any:
        nonlocal count
        count += 1
        if count % 2:
            raise DivergedError("training diverged: nothing is left")
        return distil(self, *given, **values)

    monkeypatch.setattr(Networks, "distil", sometimes)
    found = searched(recipe)
    states = [row["state"] for row in found["trials"]]
    assert states.count("diverged") == TRIALS // 2
    assert found["trials"][0]["problem"] == "training diverged: nothing is left"
    assert found["trials"][0]["validation_top1"] is None
    assert found["best"]["trial"] % 2 == 0
    monkeypatch.setattr(Networks, "distil", lambda *_, **__: (_ for _ in ()).throw(DivergedError("always")))
    with pytest.raises(ModelError, match="none of 2 trials came to an end: always"):
        searched(recipe, "search.trials=2", folder="new")


@pytest.mark.usefixtures("untrained")
def test_a_trial_that_is_behind_is_stopped(recipe: Path) -> None:
    wide = ("search.learning_rate=[1e-7, 0.3]", "search.trials=14", "distill.epochs=6")
    found = searched(recipe, *wide, folder="pruned")
    pruned = [row for row in found["trials"] if row["state"] == "pruned"]
    assert pruned
    assert all(3 <= row["epochs"] < 6 for row in pruned)
    all_of_them = searched(recipe, *wide, "search.pruner=none", folder="whole")
    assert {row["epochs"] for row in all_of_them["trials"]} == {6}


def test_without_a_cache_it_says_what_one_would_save(recipe: Path) -> None:
    heard = Heard()
    search_recipe(recipe, recipe.parent / "run", overrides=["search.trials=1"], progress=heard)
    assert any("[distill.cache]" in note for note in heard.notes)


@pytest.mark.usefixtures("untrained")
def test_a_damaged_study_is_named(recipe: Path) -> None:
    searched(recipe, "search.trials=1")
    study = recipe.parent / "run" / "search" / "study.db"
    study.write_bytes(b"nothing of the kind" * 1000)
    with pytest.raises(DataError, match=r"study\.db: .*; delete this file to search anew"):
        searched(recipe)


def test_what_a_search_needs_is_said_at_once(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for override, message in (
        (
            "search.methods=['kdd']",
            r"search\.methods\.0 = \"kdd\": must be one of: kd, dkd, .*perhaps you meant 'kd'",
        ),
        ("search.methods=[]", r"search\.methods"),
        ("search.methods=['hint']", "'hint' compares features: name them with distill.taps.pairs"),
        ("search.alpha=[0.9, 0.1]", "the lower bound 0.9 is above the upper bound 0.1"),
        ("search.temperature=[0.0, 4.0]", "greater than or equal to 0.01"),
        ("search.trails=3", r"unknown key 'search\.trails' \(perhaps you meant 'trials'\?\)"),
    ):
        with pytest.raises(RecipeError, match=message):
            searched(recipe, override)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match="optuna"):
        searched(recipe)
