"""`edgekd distill` in two processes, started by torchrun."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from conftest import environment  # type: ignore[attr-defined]
from launching import TORCHRUN
from test_run import digests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SETTINGS = ("--set", "distill.control=false", "--set", "distill.cache={views = 2}", "--set", "distill.accumulate=2")


def start(folder: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [*TORCHRUN, "-m", "edgekd", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )


def test_two_processes_train_one_network_and_survive_the_death_of_one(
    recipe: Path, edgekd: Callable[..., Any], tmp_path: Path
) -> None:
    peace = start(tmp_path, "distill", recipe, "-o", "peace", *SETTINGS)
    out, told = peace.communicate(timeout=600)
    assert peace.returncode == 0, told
    assert out.startswith("peace/student.safetensors: ")
    assert out.count("\n") == 1
    assert told.count("train the teacher ...") == told.count("distil the student ...") == 1

    killed = start(tmp_path, "distill", recipe, "-o", "killed", *SETTINGS)
    assert killed.stderr is not None
    assert any(line.startswith("distil the student ...") for line in killed.stderr)
    (second,) = [
        child
        for child in psutil.Process(killed.pid).children()
        if child.environ().get("RANK") == "1" and "edgekd" in child.cmdline()
    ]
    second.kill()
    left = killed.communicate(timeout=600)[1]
    assert killed.returncode != 0
    assert "a fault of edgekd" not in left
    assert not (tmp_path / "killed" / "student.safetensors").exists()

    again = start(tmp_path, "distill", recipe, "-o", "killed", *SETTINGS)
    assert "distil the student ..." in again.communicate(timeout=600)[1]
    assert digests(tmp_path / "killed") == digests(tmp_path / "peace")

    alone = edgekd("distill", recipe, "-o", "peace", *SETTINGS)
    assert alone.stderr.count("is unchanged, reused") == 3
    assert "..." not in alone.stderr


@pytest.mark.parametrize(
    "settings",
    [
        ["distill.peers=2"],
        ["distill.data_free={samples = 64, steps = 4}", "teacher.model='resnet8'"],
    ],
    ids=["peers", "data-free"],
)
def test_ways_without_a_teacher_or_data_work_in_two_processes(
    settings: list[str], recipe: Path, tmp_path: Path
) -> None:
    options = [word for setting in [*settings, "distill.control=false"] for word in ("--set", setting)]
    trained = start(tmp_path, "distill", recipe, "-o", "out", *options)
    out, told = trained.communicate(timeout=600)
    assert trained.returncode == 0, told
    assert out.startswith("out/student.safetensors: ")
    assert out.count("\n") == told.count("distil the student ...") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run"],
            "edgekd: edgekd run works in one process, 2 were started; train with `edgekd distill` in all of them",
        ),
        (["distill", "-o", "taken"], "taken: cannot write here"),
        (
            ["distill", "--set", "distill.batch_size=3"],
            "batch_size = 3 is shared out among 2 processes; it must be 4",
        ),
    ],
)
def test_what_is_wrong_is_said_once(recipe: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "taken").touch()
    refused = start(tmp_path, *arguments, recipe)
    told = refused.communicate(timeout=600)[1]
    assert refused.returncode != 0
    assert told.count(message) == 1, told
