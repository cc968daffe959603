"""`edgekd run`, from a recipe to the report, undisturbed and killed."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROLES = ["teacher", "control", "student-fp32", "student-int8"]
# what a run leaves, timings (bench.json, report.json) aside
MADE = ("*.safetensors", "*.onnx", "*.card.json", "splits.json", "evaluation.json")


def digests(folder: Path) -> dict[str, str]:
    files = sorted({path for pattern in MADE for path in folder.glob(pattern)})
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_run_leaves_what_it_promises_and_is_reused(
    recipe: Path, edgekd: Callable[..., Any], tmp_path: Path
) -> None:
    first = edgekd("run", recipe)
    folder = tmp_path / "runs" / "tiny"
    report = json.loads((folder / "report.json").read_bytes())
    check_report(report, folder)
    check_cards(folder)
    assert not (folder / "checkpoints").exists()
    for word in ("teacher", "control", "student fp32", "student int8", "p50", "p90", "peak memory"):
        assert word in first.stdout
    assert first.stderr.isascii()
    assert str(tmp_path) not in "".join(path.read_text() for path in folder.glob("*.json"))
    page = (folder / "report.html").read_text()
    assert "student int8" in page
    assert str(tmp_path) not in page

    before = digests(folder)
    second = edgekd("run", recipe)
    assert reused(second.stderr) == 9
    assert "train the teacher" not in second.stderr
    assert digests(folder) == before

    changed = edgekd("run", recipe, "--set", "quantize.samples=32")
    assert "quantize: student.int8.onnx is unchanged" not in changed.stderr
    assert reused(changed.stderr) == 7
    after = digests(folder)
    assert {name for name in before if before[name] != after[name]} == {
        "student.int8.onnx",
        "student.int8.onnx.card.json",
        "evaluation.json",
        "evaluation.json.card.json",
    }


def reused(log: str) -> int:
    """Count the stages that were not run again, without bench: a measurement that was disturbed is repeated."""
    return log.count("is unchanged, reused") - log.count("bench.json is unchanged")


def check_report(report: dict[str, Any], folder: Path) -> None:
    assert report["schema"] == "edgekd.run/1"
    assert [model["role"] for model in report["models"]] == ROLES
    for model in report["models"]:
        assert (folder / model["path"]).stat().st_size == model["file_bytes"]
        assert 0 <= model["top1"] <= 1
        assert 0 <= model["agreement_teacher"] <= 1
        assert model["parameters"] > 0
        assert model["latency_ms"]["p50"] > 0
        assert model["memory_bytes"].keys() >= {"import", "session_peak", "session", "first_run", "steady"}
    assert report["models"][0]["agreement_teacher"] == 1
    assert report["int8"]["agreement_fp32"] >= 0.9
    assert report["int8"]["latency_ratio_fp32"]["pairs"] == 2


def check_cards(folder: Path) -> None:
    for path in folder.glob("*.card.json"):
        card = json.loads(path.read_bytes())
        file = folder / card["file"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == card["sha256"]
        for parent, digest in card["parents"].items():
            if (folder / parent).exists():
                assert hashlib.sha256((folder / parent).read_bytes()).hexdigest() == digest
        assert card["extra"]["contract"]["size"] == [8, 8]
    contract = json.loads((folder / "student.onnx.card.json").read_bytes())["extra"]["contract"]
    for name in ("teacher", "control", "student", "student.int8"):
        model = onnx.load(folder / f"{name}.onnx")
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(metadata["edgekd.contract"]) == contract
        assert len(metadata["edgekd.recipe"]) == 64
        assert model.ir_version <= 10
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]


def kill_when(command: list[str], folder: Path, line: str, delay_s: float) -> None:
    """Start a run and send SIGKILL soon after it has printed `line`."""
    from conftest import environment  # type: ignore[attr-defined]

    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stderr is not None
    for found in process.stderr:
        if found.startswith(line):
            time.sleep(delay_s)
            process.send_signal(signal.SIGKILL)
            break
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL, f"the run ended before it said {line!r}"


@pytest.mark.parametrize(
    "kills",
    [
        [
            ("train the teacher ...", 0.05),
            ("train the teacher", 0),
            ("train the control", 0.05),
            ("export: teacher", 0),
        ],
        [("distil the student ...", 0.05), ("distil the student", 0), ("export: student", 1.0), ("bench ...", 0.2)],
    ],
    ids=["training", "later"],
)
def test_a_killed_run_continues_and_ends_with_the_same_bytes(
    recipe: Path,
    edgekd: Callable[..., Any],
    command: Callable[..., list[str]],
    tmp_path: Path,
    kills: list[tuple[str, float]],
) -> None:
    edgekd("run", recipe, "-o", "undisturbed")
    for line, delay_s in kills:
        kill_when(command("run", recipe, "-o", "killed"), tmp_path, line, delay_s)
    edgekd("run", recipe, "-o", "killed")
    assert digests(tmp_path / "killed") == digests(tmp_path / "undisturbed")
    assert not list((tmp_path / "killed").rglob(".partial-*"))


def test_a_killed_cache_is_filled_to_the_same_bytes_and_the_student_learns_the_same(
    recipe: Path, edgekd: Callable[..., Any], command: Callable[..., list[str]], tmp_path: Path
) -> None:
    settings = ("--set", "distill.cache={views = 60}", "--set", "distill.control=false")
    edgekd("distill", recipe, "-o", "undisturbed", *settings)
    for delay_s in (0.02, 0.1):
        kill_when(command("distill", recipe, "-o", "killed", *settings), tmp_path, "ask the teacher ...", delay_s)
    assert not (tmp_path / "killed" / "student.safetensors").exists()
    edgekd("distill", recipe, "-o", "killed", *settings)
    assert digests(tmp_path / "killed") == digests(tmp_path / "undisturbed")
    answers = [
        {path.name: path.read_bytes() for path in (tmp_path / run / "answers").iterdir()}
        for run in ("killed", "undisturbed")
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 61
    again = edgekd("distill", recipe, "-o", "killed", *settings, "--set", "distill.temperature=2.0")
    assert "the teacher does not run" in again.stderr


def test_a_file_changed_by_hand_is_made_again(recipe: Path, edgekd: Callable[..., Any], tmp_path: Path) -> None:
    edgekd("distill", recipe, "-o", "r")
    before = digests(tmp_path / "r")
    (tmp_path / "r" / "student.safetensors").write_bytes(b"tampered")
    (tmp_path / "r" / "control.safetensors.card.json").write_text("{")
    edgekd("distill", recipe, "-o", "r")
    assert digests(tmp_path / "r") == before


def test_a_teacher_from_the_recipe_and_a_students_own_code(
    recipe: Path, edgekd: Callable[..., Any], tmp_path: Path
) -> None:
    edgekd("distill", recipe, "-o", "first", "--set", "distill.control=false")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\nfrom own_parts import activation\n"
        "def small(width):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), activation(), nn.Linear(width, 10))\n"
    )
    (tmp_path / "own_parts.py").write_text("from torch.nn import ReLU as activation\n")
    settings = [
        "teacher.checkpoint=first/teacher.safetensors",
        "student.model=mine:small",
        "student.arguments={width = 16}",
        "distill.control=false",
        "distill.epochs=1",
    ]
    overrides = [word for setting in settings for word in ("--set", setting)]
    ran = edgekd("run", recipe, "-o", "second", *overrides)
    assert "train the teacher" not in ran.stderr
    models = json.loads((tmp_path / "second" / "report.json").read_bytes())["models"]
    assert [model["role"] for model in models] == ["teacher", "student-fp32", "student-int8"]
    assert models[1]["parameters"] == 64 * 16 + 16 + 160 + 10
    first, second = (tmp_path / name / "teacher.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()

    (tmp_path / "own_parts.py").write_text("from torch.nn import Tanh as activation\n")
    again = edgekd("run", recipe, "-o", "second", *overrides)
    assert "distil the student ..." in again.stderr  # the code it is made of changed
    assert "teacher: teacher.safetensors is unchanged, reused" in again.stderr


def test_a_missed_gate_exits_4_after_everything_was_written(
    recipe: Path, edgekd: Callable[..., Any], tmp_path: Path
) -> None:
    """Calibrated on one sample and judged on 200, the file loses something; no loss at all is allowed."""
    np.savez(tmp_path / "hard.npz", x=hard_images(), labels=np.arange(400) % 2)
    (tmp_path / "hard.toml").write_text(
        recipe.read_text().replace('source = "digits"', 'source = "npz"\npath = "hard.npz"')
    )
    ran = edgekd(
        "run", tmp_path / "hard.toml", "-o", "r", "--set", "quantize.max_drop=0.0", "--set", "quantize.samples=1",
        "--set", "data.train=100", "--set", "data.crop_padding=0", "--set", "data.validation=40", "--set", "data.calibration=40", code=4,
    )  # fmt: skip
    assert "gate not met: the INT8 file's top-1 accuracy is" in ran.stderr
    assert "student.int8.onnx" in ran.stderr
    report = json.loads((tmp_path / "r" / "report.json").read_bytes())
    assert report["gate"]["met"] is False
    assert report["gate"]["drop"] > 0
    assert report["int8"]["fp32_reason"].startswith("no file met a drop of 0: ")
    assert f"On the validation split: {report['int8']['fp32_reason']}" in ran.stderr
    card = json.loads((tmp_path / "r" / "student.int8.onnx.card.json").read_bytes())
    assert card["metrics"]["evaluation"]["samples"] == 40  # the validation split
    assert card["metrics"]["evaluation"]["model"]["path"] == "student.int8.onnx"
    assert card["metrics"]["gate"] == {"max_drop": 0.0, "met": False}
    assert report["samples"] == 200  # the test split
    assert (tmp_path / "r" / "student.int8.onnx").exists()
    assert "student int8" in ran.stdout


def test_a_network_of_matrices_with_dynamic_int8(recipe: Path, edgekd: Callable[..., Any], tmp_path: Path) -> None:
    asked = ["student.model=mlp-32", "quantize.mode=dynamic", "distill.control=false", "quantize.max_drop=1.0"]
    edgekd("run", recipe, "-o", "r", *(word for setting in asked for word in ("--set", setting)))
    card = json.loads((tmp_path / "r" / "student.int8.onnx.card.json").read_bytes())
    assert card["settings"].keys() == {"mode", "target", "max_drop", "recipe"}
    assert card["metrics"]["effective"]["mode"] == "dynamic"
    assert card["metrics"]["evaluation"]["agreement"] > 0.9
    operators = [node.op_type for node in onnx.load(tmp_path / "r" / "student.int8.onnx").graph.node]
    assert operators.count("MatMulInteger") == 2


def hard_images() -> np.ndarray:
    """Return two classes that differ in a faint pattern; one sample in ten is a hundred times as bright."""
    rng = np.random.default_rng(0)
    images = rng.normal(0, 1, (400, 1, 8, 8))
    images[1::2, :, ::2] += 0.7
    images[::10] *= 100
    return images.astype(np.float32)
