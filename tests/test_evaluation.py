from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from edgekd import evaluate, inference, quantize
from edgekd.data import ArraySamples
from edgekd.errors import DataError, GateError, ModelError, UsageError
from edgekd.inference import batch_size_for, predict
from edgekd.runtime import open_model
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


KINDS = {
    "sequence": ("seq(float[N, 2]) y", "z = MatMul(x, w) y = SequenceConstruct(z)"),
    "text": ("string[N, 3] y", "y = Cast<to = 8>(x)"),
    "bfloat16": ("bfloat16[N, 2] y", "z = MatMul(x, w) y = Cast<to = 16>(z)"),
    "nothing": ("", "z = MatMul(x, w)"),
}


def parsed(inputs: str, outputs: str, nodes: str) -> bytes:
    weights = "<float[3, 2] w = {1, 2, 3, 4, 5, 6}, int64 first = {0}>"
    text = f'<ir_version: 10, opset_import: ["" : 18]> g ({inputs}) => ({outputs}) {weights} {{ {nodes} }}'
    return onnx.parser.parse_model(text).SerializeToString()


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_that_is_no_tensor_of_numbers(tmp_path: Path, kind: str) -> None:
    (tmp_path / "m.onnx").write_bytes(parsed("float[N, 3] x", *KINDS[kind]))
    with pytest.raises(ModelError, match=r"m\.onnx: .*output"):
        evaluate(tmp_path / "m.onnx", {"x": np.ones((4, 3), np.float32)})


@pytest.mark.parametrize(
    ("kind", "taken"), [("seq(float[N, 3])", "SequenceAt(x, first)"), ("string[N, 3]", "Cast<to = 1>(x)")]
)
def test_an_input_that_is_no_tensor_of_numbers(tmp_path: Path, kind: str, taken: str) -> None:
    (tmp_path / "m.onnx").write_bytes(parsed(f"{kind} x", "float[N, 2] y", f"z = {taken} y = MatMul(z, w)"))
    data = {"x": np.ones((4, 3), np.float32)}
    with pytest.raises(ModelError, match=r"its input 'x' is .*; expected a tensor of plain numbers"):
        evaluate(tmp_path / "m.onnx", data)
    with pytest.raises(ModelError, match=r"its input 'x' is .*; expected a tensor of plain numbers"):
        quantize(tmp_path / "m.onnx", data, None)


@pytest.mark.parametrize("kind", ["uint16", "int16", "uint32", "uint64", "double", "float16"])
def test_every_type_of_number_is_fed(tmp_path: Path, kind: str) -> None:
    dtype = np.dtype({"double": "float64"}.get(kind, kind))
    (tmp_path / "m.onnx").write_bytes(
        parsed(f"{kind}[N, 3] x", "float[N, 2] y", "z = Cast<to = 1>(x) y = MatMul(z, w)")
    )
    assert evaluate(tmp_path / "m.onnx", {"x": np.ones((4, 3), dtype), "labels": np.ones(4, int)}).top1 == 1.0


def test_an_input_whose_shape_is_not_declared(tmp_path: Path) -> None:
    model = onnx.load_from_string(parsed("float[N, 3] x", "float[N, 2] y", "y = MatMul(x, w)"))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "m.onnx")
    data = {"x": np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)}
    assert evaluate(tmp_path / "m.onnx", data).samples == 8
    assert quantize(tmp_path / "m.onnx", data, None, evaluation=data).fp32_layers == ()
    with pytest.raises(ModelError, match="cannot run this model"):
        evaluate(tmp_path / "m.onnx", {"x": np.ones((4, 5), np.float32)})


def test_batches_are_bounded_in_bytes_and_change_no_result(
    path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, model = ArraySamples({"input": images}), open_model(path)
    assert batch_size_for(samples) == 16
    expected = predict(model, samples, batch_size=64)
    for limit, size in ((images[0].nbytes * 3, 3), (1, 1)):
        monkeypatch.setattr(inference, "BATCH_BYTES", limit)
        assert batch_size_for(samples) == size
        np.testing.assert_allclose(predict(model, samples), expected, rtol=1e-5, atol=1e-6)
