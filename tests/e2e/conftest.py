"""A recipe small enough to run in seconds, and the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RECIPE = """
name = "tiny"

[data]
source = "digits"
test = 200
train = 300
crop_padding = 1

[teacher]
model = "resnet8x0.5"
epochs = 3
checkpoint_s = 0.0

[student]
model = "resnet8x0.25"

[distill]
epochs = 3
checkpoint_s = 0.0

[bench]
duration_s = 0.02
repeats = 2
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    def line(*arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "edgekd", *map(str, arguments)]

    return line


@pytest.fixture
def edgekd(command: Callable[..., list[str]], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, in the test's folder."""

    def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run(
            command(*arguments), cwd=tmp_path, capture_output=True, text=True, check=False, env=environment()
        )
        assert ran.returncode == code, ran.stderr
        return ran

    return run


def environment() -> dict[str, str]:
    """Return the environment of a child: one thread, so that tests side by side do not fight."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}
