"""Bundles in onnxruntime's own format."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgekd import bench
from edgekd.artifact import write_json
from edgekd.bundling.contents import Contents
from edgekd.bundling.ort_format import CONFIG, _operators
from edgekd.errors import DataError
from tests.bundling.conftest import manifest
from tests.bundling.test_bundle import bundle_of, command_of
from tests.bundling.test_python_package import run


@pytest.fixture(scope="module")
def ort_app(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(models, tmp_path_factory.mktemp("ort") / "app", format="ort", runs=2)


def test_the_files_answer_as_the_models_do(ort_app: Path, models: list[Path]) -> None:
    values = np.random.default_rng(0).normal(0, 1, (1, 3, 20, 24)).astype(np.float32)
    for entry, model in zip(manifest(ort_app)["variants"], models, strict=True):
        assert entry["path"] == f"models/{model.stem}.ort"
        assert entry["format"] == "ort"
        content = (ort_app / entry["path"]).read_bytes()
        assert content[4:8] == b"ORTM"
        found, expected = (
            onnxruntime.InferenceSession(one).run(None, {"input": values})[0] for one in (content, model.read_bytes())
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_self_test_passes(ort_app: Path) -> None:
    ran = run([str(ort_app / "python" / "selftest.py")], ort_app)
    assert ran.stdout.splitlines()[-1] == "PASS"
    assert ".ort" in ran.stdout


def test_the_configuration_is_of_the_optimized_graphs(ort_app: Path) -> None:
    text = (ort_app / "build" / CONFIG).read_text()
    assert "#" not in text
    assert "/" not in text
    operators = manifest(ort_app)["runtime"]["operators"]
    assert "QLinearConv" in operators["com.microsoft"]
    assert "DequantizeLinear" not in operators[""]  # fused away
    for name in [*operators[""], *operators["com.microsoft"]]:
        assert re.search(rf"[;,]{name}\b", text)


def test_types_are_no_operators() -> None:
    text = 'ai.onnx;13;Cast{"inputs": {"0": ["float", "int64_t"]}},Gather\ncom.microsoft;1;QGemm\n'
    assert _operators(text) == {"": {"Cast", "Gather"}, "com.microsoft": {"QGemm"}}


def test_the_runtime_it_needs(
    ort_app: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, models: list[Path]
) -> None:
    assert manifest(ort_app)["runtime"]["onnxruntime"]["least"] == "1.18.0"  # of the models' own format
    monkeypatch.setattr("edgekd.bundling.ort_format._VERSION", b"5")
    app = bundle_of(models[2:], tmp_path / "app", format="ort")
    assert manifest(app)["runtime"]["onnxruntime"]["least"] == onnxruntime.__version__


def test_the_command_says_when_it_does_not_pay(models: list[Path], tmp_path: Path) -> None:
    told = "up to three times slower on x86"
    assert told in command_of(models[2:], tmp_path / "a", "--format", "ort").output
    assert told not in command_of(models[:1], tmp_path / "b", "--format", "ort").output
    assert "--minimal_build" in (tmp_path / "a" / "README.md").read_text()


def test_models_keep_their_places_though_they_be_alike() -> None:
    contents = Contents()
    assert contents.put("models/a.ort", b"x") == "models/a.ort"
    assert contents.put("models/b.ort", b"x") == "models/b.ort"
    assert contents.add("golden/c.bin", b"x") == "models/a.ort"
    assert set(contents.files) == {"models/a.ort", "models/b.ort"}


def test_a_benchmark_of_the_onnx_files_is_of_other_models(models: list[Path], tmp_path: Path) -> None:
    write_json(tmp_path / "bench.json", bench([models[2]], runs=1).to_json())
    with pytest.raises(DataError, match="other models than those of this bundle"):
        bundle_of(models[2:], tmp_path / "app", format="ort", benchmark=tmp_path / "bench.json")
