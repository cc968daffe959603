"""`edgekd run` on bad data and bad places: one message, the right code, and what was finished stays."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import environment  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def write_recipe(folder: Path, data: str) -> Path:
    path = folder / "r.toml"
    path.write_text(
        f'name = "r"\n[data]\n{data}\n[teacher]\nmodel = "mlp-8"\nepochs = 1\n[student]\nmodel = "mlp-4"\n'
        "[distill]\nepochs = 1\n[bench]\nduration_s = 0.02\nrepeats = 2\n"
    )
    return path


def npz(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "d.npz", **arrays)
    return write_recipe(folder, 'source = "npz"\npath = "d.npz"')


X = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
Y = np.arange(100) % 2


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x": np.where(np.arange(100)[:, None] == 7, np.float32(np.nan), X), "labels": Y}, "NaN in sample 7"),
        ({"x": X, "labels": Y - 1}, "-1"),
        ({"x": X, "labels": Y + 0.5}, "labels"),
        ({"x": X}, "labels"),
        ({"x": X[:99], "labels": Y}, "99"),
        ({"x": X[:3], "labels": Y[:3]}, "split"),
    ],
    ids=["nan", "negative label", "half a label", "no labels", "unequal lengths", "an empty split"],
)
def test_bad_arrays(edgekd: Callable[..., Any], tmp_path: Path, arrays: dict[str, np.ndarray], expected: str) -> None:
    ran = edgekd("run", npz(tmp_path, **arrays), code=3)
    message = ran.stderr[ran.stderr.index("edgekd: ") :]
    assert expected in message
    assert "Traceback" not in message
    assert not list(tmp_path.glob("runs/r/*.safetensors"))


def test_a_truncated_idx_file(edgekd: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "idx"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        head = bytes([0, 0, 8, 3]) + b"".join(extent.to_bytes(4, "big") for extent in images.shape)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes()))
        head = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big")
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + bytes(i % 3 for i in range(count)))
    recipe = write_recipe(tmp_path, 'source = "idx"\npath = "idx"')
    edgekd("run", recipe)
    labels = folder / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-5])
    assert "t10k-labels-idx1-ubyte" in edgekd("run", recipe, code=3).stderr
    labels.unlink()
    assert "t10k-labels-idx1-ubyte" in edgekd("run", recipe, code=3).stderr
    assert (tmp_path / "runs" / "r" / "student.int8.onnx").exists()


def test_a_place_that_cannot_be_written(edgekd: Callable[..., Any], tmp_path: Path) -> None:
    recipe = npz(tmp_path, x=X, labels=Y)
    (tmp_path / "file").touch()
    for place in ("file/run", "/proc/run"):
        assert "cannot write here" in edgekd("run", recipe, "-o", place, code=2).stderr


def test_a_full_disk_keeps_what_was_finished(
    edgekd: Callable[..., Any], command: Callable[..., list[str]], tmp_path: Path
) -> None:
    recipe = npz(tmp_path, x=X, labels=Y)
    edgekd("run", recipe)
    folder = tmp_path / "runs" / "r"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    ran = subprocess.run(
        command("run", recipe, "--set", "seed=3"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)),
    )
    assert ran.returncode == 2, ran.stderr
    assert "cannot write here" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_damaged_timings_are_measured_again(edgekd: Callable[..., Any], tmp_path: Path) -> None:
    recipe = npz(tmp_path, x=X, labels=Y)
    edgekd("run", recipe)
    path = tmp_path / "runs" / "r" / "bench.json"
    origin = json.loads(path.read_bytes())["origin"]
    path.write_text(json.dumps({"origin": origin, "models": [3]}))
    assert "bench.json is unchanged" not in edgekd("run", recipe).stderr
    measured = json.loads(path.read_bytes())
    assert len(measured["models"]) == 4
    undisturbed = measured["conditions"]["verdict"] == "valid"  # a disturbed measurement is made again, too
    assert ("bench.json is unchanged" in edgekd("run", recipe).stderr) == undisturbed
