from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from edgekd import evaluate
from edgekd.data import ArraySamples
from edgekd.errors import DataError, GateError, ModelError, UsageError
from edgekd.runtime import open_model, predict
from edgekd.scoring import require_drop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto]) -> Path:
    file = tmp_path / "net.onnx"
    onnx.save(make_conv_net(), file)
    return file


@pytest.fixture
def data(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    return {"input": images, "labels": open_model(path).run({"input": images})[0].argmax(axis=1)}


def test_the_contract_form(path: Path, data: dict[str, np.ndarray]) -> None:
    content = evaluate(path, data, reference=path).to_json()
    assert content == json.loads(json.dumps(content, allow_nan=False))
    assert content["schema"] == "edgekd.evaluation/1"
    assert content["model"]["path"] == str(path)
    assert len(content["model"]["sha256"]) == 64
    assert content["device"] == "local"
    assert (content["samples"], content["top1"], content["agreement"], content["sqnr_db"]) == (64, 1.0, 1.0, 150.0)


def test_what_does_not_apply_is_null(path: Path, images: np.ndarray) -> None:
    content = evaluate(path, {"input": images}).to_json()
    assert content["top1"] is content["agreement"] is content["sqnr_db"] is content["reference_top1"] is None


def test_an_npz_file(path: Path, data: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **data)
    data["labels"][:16] = (data["labels"][:16] + 1) % 4
    assert evaluate(path, str(tmp_path / "d.npz")).top1 == 1.0
    assert evaluate(path, data).top1 == 0.75


@pytest.mark.parametrize("batch", [1, 5, 64, 100])
def test_a_fixed_batch_axis_changes_no_answer(
    make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray, batch: int
) -> None:
    free = predict(open_model(make_conv_net().SerializeToString()), ArraySamples({"input": images}))
    fixed = predict(open_model(make_conv_net(batch=batch).SerializeToString()), ArraySamples({"input": images}))
    np.testing.assert_allclose(fixed, free, rtol=1e-5, atol=1e-6)


def test_the_gate(path: Path, data: dict[str, np.ndarray], tmp_path: Path) -> None:
    other = onnx.load(path)
    next(t for t in other.graph.initializer if t.name == "b3").raw_data = np.float32([99, 0, 0, 0]).tobytes()
    onnx.save(other, tmp_path / "other.onnx")
    found = evaluate(tmp_path / "other.onnx", data, reference=path)
    assert found.reference_top1 == 1.0
    assert found.drop == pytest.approx(1 - float(np.mean(data["labels"] == 0)), abs=1e-6)
    require_drop(found, 1.0, "kept")
    with pytest.raises(GateError, match=r"top-1 accuracy dropped by .*, at most 0\.01 is allowed .* kept"):
        require_drop(found, 0.01, "kept")
    unlabelled = evaluate(tmp_path / "other.onnx", {"input": data["input"]}, reference=path)
    with pytest.raises(GateError, match="agreement with the reference dropped"):
        require_drop(unlabelled, 0.01, "kept")
    with pytest.raises(UsageError, match="--reference"):
        require_drop(evaluate(path, {"input": data["input"]}), 0.01, "kept")


def test_a_drop_of_just_what_is_allowed_passes(path: Path, images: np.ndarray) -> None:
    from dataclasses import replace

    found = evaluate(path, {"input": images}, reference=path)
    require_drop(replace(found, top1=0.89, reference_top1=0.9), 0.01, "kept")


def test_nan_is_an_error(path: Path, data: dict[str, np.ndarray], tmp_path: Path) -> None:
    broken = onnx.load(path)
    next(t for t in broken.graph.initializer if t.name == "b3").raw_data = np.float32([np.nan, 0, 0, 0]).tobytes()
    onnx.save(broken, tmp_path / "nan.onnx")
    with pytest.raises(ModelError, match="NaN"):
        evaluate(tmp_path / "nan.onnx", data)
    with pytest.raises(ModelError, match="NaN"):
        evaluate(path, data, reference=tmp_path / "nan.onnx")


def test_what_does_not_fit_is_named(path: Path, data: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.onnx: no such model file"):
        evaluate(tmp_path / "absent.onnx", data)
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ModelError, match=r"text\.onnx: not an ONNX model"):
        evaluate(tmp_path / "text.onnx", data)
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ModelError, match="this file is empty"):
        evaluate(tmp_path / "empty.onnx", data)
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ModelError, match=r"cut\.onnx: not an ONNX model"):
        evaluate(tmp_path / "cut.onnx", data)
    with pytest.raises(DataError, match=r"takes 'input' of shape \['N', 3, 8, 8\]"):
        evaluate(path, {"input": data["input"][:, :1]})
    with pytest.raises(DataError, match="label 9 of sample 3 is out of range"):
        evaluate(path, {**data, "labels": np.where(np.arange(64) == 3, 9, 0)})
    with pytest.raises(DataError, match="NaN"):
        evaluate(path, {"input": np.full((3, 3, 8, 8), np.nan, np.float32)})
    with pytest.raises(DataError, match="as tensor"):
        evaluate(path, {"input": np.full((3, 3, 8, 8), "a")})
    with pytest.raises(UsageError, match="unknown device"):
        evaluate(path, data, device="pixel")


def test_images_need_a_contract(path: Path, tmp_path: Path) -> None:
    (tmp_path / "images" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="contract"):
        evaluate(path, tmp_path / "images")
