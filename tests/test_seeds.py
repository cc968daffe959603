"""Several seeds: the statistics, and the trainings of a run."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from listening import Heard
from tiny_run import distilled, fake_bench, reused, write_recipe

from edgekd import pipeline
from edgekd.artifact import card_path
from edgekd.cli import run_tables
from edgekd.recipe_file import load_recipe
from edgekd.reporting.page import report
from edgekd.run_networks import Training
from edgekd.seeds import compare_seeds, gain
from edgekd.text import help_sentences

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]


def scores(student: Sequence[float], control: Sequence[float] | None) -> dict[str, Any]:
    found = {"student": student} if control is None else {"student": student, "control": control}
    roles = {
        role: {"test_top1": list(top1), "validation_top1": list(top1), "shipped_seed": 1}
        for role, top1 in found.items()
    }
    return {"seeds": list(range(len(student))), **roles}


def test_welchs_test_equals_its_formula() -> None:
    student, control = [0.91, 0.93, 0.92, 0.94], [0.90, 0.88, 0.895, 0.89]
    found = gain(student, control)
    parts = [np.var(values, ddof=1) / 4 for values in (student, control)]
    error = math.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / sum(part**2 / 3 for part in parts)
    times = np.arange(0, 4000, 1e-3)  # the t distribution's tail, summed
    density = (1 + times**2 / freedom) ** (-(freedom + 1) / 2)
    tail = density[times >= found["difference"] / error].sum() / density.sum()
    assert found["difference"] == pytest.approx(0.03375)
    assert found["p_value"] == pytest.approx(tail, rel=1e-2)
    outside = density[times >= (found["upper"] - found["difference"]) / error].sum() / density.sum()
    assert outside == pytest.approx(0.05, rel=1e-2)
    assert found["upper"] - found["difference"] == pytest.approx(found["difference"] - found["lower"])


@pytest.mark.parametrize(
    ("student", "control", "verdict", "words"),
    [
        ([0.95, 0.96, 0.955], [0.90, 0.91, 0.905], "helped", "Distillation helped: +5.00 points ["),
        ([0.90, 0.91, 0.905], [0.95, 0.96, 0.955], "hurt", "Distillation did not help, it hurt: -5.00 points ["),
        ([0.90, 0.95, 0.925], [0.90, 0.94, 0.920], "within-noise", "did not measurably help here: +0.50 points ["),
        ([0.90, 0.95], [0.92, 0.92], "within-noise", "is within the noise of the seeds."),
        ([0.90, 0.90], [0.90, 0.90], "untested", "+0.00 points, with no spread among the seeds"),
        ([0.90, 0.90], [0.80, 0.80], "untested", "+10.00 points, with no spread among the seeds"),
    ],
)
def test_verdicts_and_their_words(
    student: Sequence[float], control: Sequence[float], verdict: str, words: str
) -> None:
    found = compare_seeds(scores(student, control))
    assert found["gain"]["verdict"] == verdict
    models = [{"role": role} for role in ("teacher", "control", "student-fp32")]
    told = help_sentences({"models": models, "seeds": found, "samples": 10})
    assert words in told[1]
    assert f"Over {len(student)} seeds the distilled student scores {100 * np.mean(student):.2f} %" in told[0]


@pytest.mark.parametrize(
    ("student", "control", "told"),
    [(0.97, 0.90, 1), (0.92, 0.90, 2), (0.90, 0.90, 2), (0.85, 0.90, 2)],
)
def test_words_for_one_seed(student: float, control: float, told: int) -> None:
    models = [{"role": "control", "top1": control}, {"role": "student-fp32", "top1": student}]
    sentences = help_sentences({"models": models, "seeds": None, "samples": 400})
    assert len(sentences) == told
    assert ("distillation did not help" in sentences[-1]) == (student <= control)
    assert ("can be chance: distill.seeds" in sentences[-1]) == (student == 0.92)


def test_without_a_control_there_is_a_spread_and_no_gain() -> None:
    found = compare_seeds(scores([0.9, 0.8], None))
    assert (found["control"], found["gain"]) == (None, None)
    assert found["student"]["std"] == pytest.approx(0.1 / 2**0.5)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


SEVERAL = ("distill.seeds=3", "distill.control=true")


def test_every_seed_is_a_stage_of_its_own(recipe: Path) -> None:
    run = recipe.parent / "run"
    heard = distilled(recipe, *SEVERAL)
    assert heard.titles == [
        "train the teacher",
        *(f"train the control (the student without a teacher), seed {seed}" for seed in range(3)),
        *(f"distil the student, seed {seed}" for seed in range(3)),
    ]
    files = {path: path.read_bytes() for path in run.rglob("*.safetensors*")}
    assert len({content for path, content in files.items() if path.match("seeds/student-*.safetensors")}) == 3
    again = distilled(recipe, *SEVERAL)
    assert again.titles == []
    assert {path: path.read_bytes() for path in files} == files

    (run / "seeds" / "student-1.safetensors").write_bytes(b"torn")
    (run / "student.safetensors").unlink()
    assert distilled(recipe, *SEVERAL).titles == ["distil the student, seed 1"]
    assert {path: path.read_bytes() for path in files} == files
    assert distilled(recipe, *SEVERAL, "distill.seeds=4").titles == [
        "train the control (the student without a teacher), seed 3",
        "distil the student, seed 3",
    ]


def test_one_seed_more_or_less_trains_nothing_twice(recipe: Path) -> None:
    distilled(recipe)
    first = (recipe.parent / "run" / "student.safetensors").read_bytes()
    assert distilled(recipe, "distill.seeds=2").titles == ["distil the student, seed 1"]
    assert distilled(recipe).titles == []
    assert (recipe.parent / "run" / "student.safetensors").read_bytes() == first
    assert distilled(recipe, "seed=1").titles == ["train the teacher", "distil the student"]


def test_the_student_to_ship_is_the_best_on_validation(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = distilled(recipe, "distill.seeds=3", "distill.epochs=2")
    run = recipe.parent / "run"
    cards = [json.loads(card_path(run / "seeds" / f"student-{seed}.safetensors").read_bytes()) for seed in range(3)]
    best = [card["metrics"]["history"][card["metrics"]["kept_epoch"]] for card in cards]
    ranks = [(epoch["validation_top1"], -epoch["validation_loss"]) for epoch in best]

    def kept() -> int:
        return int(json.loads(card_path(run / "student.safetensors").read_bytes())["settings"]["seed"])

    assert kept() == ranks.index(max(ranks))
    assert any(note.startswith(f"student: seed {kept()} is the best on the validation split") for note in heard.notes)
    for chosen in range(3):
        monkeypatch.setattr(Training, "rank", property(lambda training, to=chosen: (training.seed == to, 0.0)))
        assert distilled(recipe, "distill.seeds=3", "distill.epochs=2").titles == []
        assert kept() == chosen


def test_seeds_wrap_around(recipe: Path) -> None:
    loaded = load_recipe(recipe, [f"seed={2**32 - 1}", "distill.seeds=2"])
    assert loaded.training_seeds == (2**32 - 1, 0)


def test_the_report_of_a_run_tells_of_its_seeds(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgekd.benchmarking.bench.bench", fake_bench)
    heard = Heard()
    folder = recipe.parent / "run"
    found = pipeline.run(recipe, folder, overrides=SEVERAL, progress=heard)
    content = found.content["seeds"]
    assert content["seeds"] == [0, 1, 2]
    for role, name in (("student", "student-fp32"), ("control", "control")):
        assert len(content[role]["test_top1"]) == len(content[role]["validation_top1"]) == 3
        (shipped,) = [model["top1"] for model in found.models if model["role"] == name]
        assert content[role]["test_top1"][content[role]["shipped_seed"]] == shipped
    document = (ROOT / "docs" / "distillation.md").read_text()
    listed = re.findall(r"`([\w.*]+)`", "".join(re.findall(r"^\| (`.*?) \|", document, re.MULTILINE)))
    keys = {*content, *(f"*.{key}" for key in content["student"]), *(f"gain.{key}" for key in content["gain"])}
    assert keys <= set(listed)

    run_tables.report_table(found.content)
    table = capsys.readouterr().out
    page = report(folder, folder / "page.html").read_text()
    for told in (table, page):
        assert "seed 2" in told
        assert "Over 3 seeds the distilled student scores" in told
    second = Heard()
    pipeline.run(recipe, folder, overrides=SEVERAL, progress=second)
    assert second.titles == []
    assert "seeds" in reused(second)
