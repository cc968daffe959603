"""SIGKILL at several moments of a training, and the bytes it ends with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import killed


def start(folder: Path, *batches: str) -> int:
    folder.mkdir(exist_ok=True)
    script = str(Path(killed.__file__))
    return subprocess.run([sys.executable, script, str(folder), *batches], check=False, timeout=600).returncode


def test_a_training_killed_again_and_again_ends_with_the_bytes_of_one_left_in_peace(tmp_path: Path) -> None:
    """8 batches an epoch, 3 a step: each time a step is under way."""
    (tmp_path / "peace").mkdir()
    killed.main(tmp_path / "peace", None)
    for batches in ("2", "8", "5"):
        assert start(tmp_path / "killed", batches) == -signal.SIGKILL
        assert not (tmp_path / "killed" / "found.json").exists()
    assert start(tmp_path / "killed") == 0
    found, expected = (json.loads((tmp_path / run / "found.json").read_text()) for run in ("killed", "peace"))
    assert found == expected
