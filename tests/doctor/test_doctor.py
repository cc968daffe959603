"""`doctor`: what this machine is, and what a file is worth on it, whoever made it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from edgekd import quantize
from edgekd.cli import main
from edgekd.doctor import diagnose, missing_packages, saturation_note
from edgekd.errors import ModelError
from edgekd.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def model(tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto]) -> Path:
    onnx.save(make_conv_net(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def plain(model: Path, images: np.ndarray, tmp_path: Path, quantize_plainly: Callable[..., None]) -> Path:
    """Return a file by onnxruntime's own quantizer: 8-bit weights, and not a word on where it may run."""
    path = tmp_path / "plain.onnx"
    quantize_plainly(model, images, path)
    return path


@pytest.fixture
def on_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this an older machine."""
    monkeypatch.setattr("edgekd.targets.detect_host", lambda: TARGETS["x86-avx2"])


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


def test_a_plain_file_is_judged_by_its_weights(plain: Path) -> None:
    (old,) = diagnose([plain], target="x86-avx2").models
    assert old.made_for is None
    assert old.can_saturate
    assert old.saturation is not None
    assert len(old.saturation.layers) == 3
    assert "does not say what it was made for; " in old.verdict
    assert "of 3 integer layers can saturate on x86-avx2" in old.verdict
    for name in ("x86-vnni", "arm64-dotprod"):
        (new,) = diagnose([plain], target=name).models
        assert not new.can_saturate
        assert f"none of 3 integer layers can saturate on {name}" in new.verdict


def test_a_file_for_another_target_that_is_safe_here_too(model: Path, images: np.ndarray, tmp_path: Path) -> None:
    quantize(model, {"input": images}, tmp_path / "q.onnx", target="x86-avx2")
    (report,) = diagnose([tmp_path / "q.onnx"], target="arm64").models
    assert report.made_for == "x86-avx2"
    assert report.verdict == "made for x86-avx2; none of 3 integer layers can saturate on arm64"
    assert report.anatomy is not None
    assert (report.anatomy.opset, report.anatomy.ir_version) == (18, 10)


def test_an_fp32_file_has_nothing_to_saturate(model: Path) -> None:
    (report,) = diagnose([model], target="x86-avx2").models
    assert report.verdict == "no integer layers, so that nothing can saturate"


def test_a_machine_without_known_kernels_is_described_all_the_same(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    found = diagnose([plain])
    assert found.machine.target is None
    content = found.to_json()["models"][0]
    assert content["saturation"] is None
    assert content["can_saturate"] is None
    found.require_sound()


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_text("this is no model")
    found = diagnose([tmp_path / "no.onnx", tmp_path / "none.onnx"])
    assert [model.loads for model in found.models] == [False, False]
    with pytest.raises(ModelError, match="not an ONNX model") as error:
        found.require_sound()
    assert str(error.value).splitlines()[1] == f"{tmp_path / 'none.onnx'}: no such model file"


def test_extras_of_which_something_is_missing() -> None:
    requirements = [
        "numpy>=1.26",
        "onnx>=1.17; extra == 'train'",
        'no-such-package>=2; extra == "train"',
        "numpy; extra == 'text'",
        "no-such-linter; extra == 'dev'",
    ]
    assert missing_packages(requirements) == {"train": ("no-such-package",), "text": ()}


def test_the_command_says_what_is_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("doctor", "--json", tmp_path / "d.json") == 0
    said = capsys.readouterr().out
    content: dict[str, Any] = json.loads((tmp_path / "d.json").read_bytes())
    assert content["schema"] == "edgekd.doctor/1"
    assert content["versions"]["onnxruntime"] in said
    assert content["machine"]["logical_cores"] == os.cpu_count()
    assert content["telemetry"] == {"variable": "ORT_DISABLE_TELEMETRY", "value": "1", "off": True}
    assert "train" in content["extras"]
    assert "dev" not in content["extras"]
    assert content["models"] == content["libraries"] == content["findings"] == []


def test_telemetry_that_is_not_off_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    (finding,) = diagnose().findings
    assert (finding.kind, finding.severity) == ("telemetry", "warning")
    assert run("doctor") == 0
    assert "warning: onnxruntime's telemetry is not off. Set ORT_DISABLE_TELEMETRY=1" in capsys.readouterr().out


@pytest.mark.usefixtures("on_avx2")
def test_a_file_that_saturates_here_exits_3_after_everything_was_said(
    plain: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("doctor", plain, model, "--json", tmp_path / "d.json") == 3
    said = capsys.readouterr()
    assert f"{model}: opset 18, IR 10, onnxruntime 1.18.0 or later; no integer layers" in said.out
    assert f"{plain}: does not say" in said.err
    assert "Quantize the fp32 model with --target x86-avx2" in said.err
    assert [entry["can_saturate"] for entry in json.loads((tmp_path / "d.json").read_bytes())["models"]] == [
        True,
        False,
    ]


@pytest.mark.usefixtures("on_avx2")
def test_evaluate_and_bench_warn_in_a_line(
    plain: Path, model: Path, images: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "data.npz", input=images)
    assert run("evaluate", plain, "--data", tmp_path / "data.npz") == 0
    assert f"{plain}: does not say what it was made for; " in capsys.readouterr().err
    assert run("bench", model, plain, "--runs", "2") == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "can saturate" in line]
    assert len(warned) == 1
    assert warned[0].startswith(f"{plain}: ")


def test_there_is_nothing_to_note_where_nothing_saturates_or_is_known(plain: Path) -> None:
    assert saturation_note(plain, "arm64") is None
    assert saturation_note(plain, "unknown") is None
    note = saturation_note(plain, "x86-avx2")
    assert note is not None
    assert "\n" not in note
