"""What a search shows: the table and the command line, the page, and bad input."""

from __future__ import annotations

import html
import json
import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from tiny_run import write_recipe

from edgekd.cli import main
from edgekd.recipe_file import load_recipe
from edgekd.reporting.charts import charts
from edgekd.reporting.findings import gather
from edgekd.reporting.page import report
from edgekd.search.space import settings_of, toml_value
from edgekd.text import search_sentences

if TYPE_CHECKING:
    from pathlib import Path


def trial(number: int, top1: float | None, state: str = "complete", method: str = "kd") -> dict[str, Any]:
    return {
        "trial": number, "state": state, "method": method, "temperature": 4.0, "alpha": 0.8, "learning_rate": 0.1,
        "validation_top1": top1, "validation_loss": None if top1 is None else 1 - top1, "kept_epoch": 0, "epochs": 2,
        "problem": None,
    }  # fmt: skip


def search(*trials: dict[str, Any], best: int = 1) -> dict[str, Any]:
    found = {"trial": best, "distill": {"alpha": 0.5}, "set": "distill={alpha = 0.5}"}
    return {
        "schema": "edgekd.search/1",
        "name": "s",
        "validation_samples": 50,
        "trials": list(trials),
        "best": found,
    }


def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["distill", str(recipe), "--search", "trials=3", "--search", "pruner=none", "--json", "found.json"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_bytes())
    assert found == json.loads((tmp_path / "runs" / "tiny" / "search" / "search.json").read_bytes())
    assert "tiny: search on the validation split" in shown
    assert len(re.findall(r"^ +\d .* complete", shown, re.MULTILINE)) == 3
    assert search_sentences(found)[0] in shown
    program, verb, named, option, setting = shlex.split(shown.splitlines()[-1])
    assert (program, verb, option) == ("edgekd", "run", "--set")
    assert load_recipe(named, [setting]).distill == settings_of(found["best"]["distill"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--search", "trials"], "--search trials: expected key=value, such as trials=20"),
        (["--search", "trials=0"], "search.trials = 0: input should be greater than or equal to 1"),
        (["--search", "trails=3"], "unknown key 'search.trails' (perhaps you meant 'trials'?)"),
        (["--json", "found.json"], "--json is for --search"),
        (["--search", "trials=1", "--json", "tiny.toml"], "this file would be overwritten"),
    ],
)
def test_bad_input_exits_2_with_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["distill", "tiny.toml", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_page_shows_the_trials(tmp_path: Path) -> None:
    content = search(
        trial(1, 0.5), trial(2, 0.75, method="dkd"), trial(3, 0.25, "pruned"), trial(4, None, "diverged"), best=2
    )
    source = tmp_path / "search.json"
    source.write_text(json.dumps(content))
    figure = charts(gather([source]))["search"]
    best, *methods = figure["data"]
    assert (best["x"], best["y"]) == ([1, 2, 3], [50.0, 75.0, 75.0])
    assert [(trace["name"], trace["x"]) for trace in methods] == [("kd", [1, 3]), ("dkd", [2])]
    assert methods[0]["marker"]["symbol"] == ["circle", "circle-open"]
    page = report(source, tmp_path / "page.html").read_text()
    told = html.unescape(page)
    assert 'data-chart="search"' in page
    for words in (
        "The best of 4 trials on 50 validation samples: dkd, temperature 4, alpha 0.8, learning rate 0.1, 75.00 %",
        "<td>2 *</td><td>dkd</td>",
        "<td>-</td><td>2</td><td>diverged</td>",
    ):
        assert words in told


def test_it_says_when_nothing_beat_the_first() -> None:
    assert len(search_sentences(search(trial(1, 0.5), trial(2, 0.5), best=2))) == 2
    assert len(search_sentences(search(trial(1, 0.5), trial(2, 0.6), best=2))) == 1


def test_values_are_written_as_toml_reads_them() -> None:
    import tomllib

    value = {"a": [1, 2.5, 1e-7, True], "b c": {'q"': 'x\\"\n\x7fé😀'}, "d": []}
    assert tomllib.loads(f"value = {toml_value(value)}")["value"] == value
