from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd import quantize
from edgekd.errors import ModelError, UsageError
from edgekd.quantization.saturation import certify
from edgekd.quantization.static import Method, Quantization
from edgekd.runtime import open_model
from edgekd.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def model(make_conv_net: Callable[..., onnx.ModelProto]) -> bytes:
    return make_conv_net().SerializeToString()


@pytest.fixture
def data(model: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    logits = open_model(model).run({"input": images})[0]
    return {"input": images, "labels": logits.argmax(axis=1)}


def int8_weights(content: bytes) -> dict[str, np.ndarray]:
    model = onnx.load_from_string(content)
    weights = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    names = (tensor.name for tensor in model.graph.initializer)
    return {n: w for n, w in zip(names, weights, strict=True) if w.dtype == np.int8 and w.ndim > 1}


def test_int8_agrees_with_fp32(model: bytes, data: dict[str, np.ndarray], tmp_path: Path) -> None:
    result = quantize(model, data, tmp_path / "q.onnx", evaluation=data, max_drop=0.1)
    assert result.evaluation is not None
    assert result.evaluation.agreement is not None
    assert result.evaluation.agreement >= 0.9
    assert result.evaluation.sqnr_db is not None
    assert result.evaluation.sqnr_db > 20
    assert result.gate_met is True
    assert result.fp32_layers == ()
    assert (tmp_path / "q.onnx").read_bytes() == result.content


def test_weights_are_stored_in_8_bits_per_channel(model: bytes, data: dict[str, np.ndarray]) -> None:
    result = quantize(model, data, None, target="arm64", method=Method(rounding="nearest", weight_ranges="max"))
    weights = int8_weights(result.content)
    assert sorted(w.shape for w in weights.values()) == [(4, 8), (8, 3, 3, 3), (8, 8, 3, 3)]
    for weight in weights.values():
        assert (np.abs(weight.reshape(len(weight), -1)).max(axis=1) == 127).all()
    floats = [t for t in onnx.load_from_string(result.content).graph.initializer if t.data_type == 1]
    assert max(numpy_helper.to_array(t).size for t in floats) <= 8  # nothing but scales


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_only_the_target_decides_whether_pairs_may_saturate(
    make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray, rounding: Literal["nearest", "gptq"]
) -> None:
    """A second convolution whose weights are alike in sign saturates with 8 bits, and is made safe for AVX2 only."""
    model = make_conv_net()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
    weight.raw_data = np.abs(numpy_helper.to_array(weight)).tobytes()
    method = Method(rounding=rounding)
    wide = quantize(model.SerializeToString(), {"input": images}, None, target="x86-vnni", method=method)
    safe = quantize(model.SerializeToString(), {"input": images}, None, target="x86-avx2", method=method)
    assert wide.saturation.to_json()["can_saturate"] == 0
    assert safe.saturation.to_json()["can_saturate"] == 0
    assert certify(onnx.load_from_string(wide.content), TARGETS["x86-avx2"]).to_json()["can_saturate"] >= 1
    assert safe.saturation.to_json()["layers"] == 3
    assert safe.effective["scales"] == "pair-safe"


def test_better_rounding_and_biases_bring_the_file_nearer_to_fp32(model: bytes, data: dict[str, np.ndarray]) -> None:
    def sqnr_db(method: Method) -> float:
        found = quantize(model, data, None, target="x86-avx2", method=method, evaluation=data).evaluation
        assert found is not None
        assert found.sqnr_db is not None
        return found.sqnr_db

    plain = sqnr_db(Method(rounding="nearest", bias_correction=False))
    corrected = sqnr_db(Method(rounding="nearest", bias_correction=True))
    clipped = sqnr_db(Method(rounding="nearest", bias_correction=False, weight_ranges="max"))
    best = sqnr_db(Method())
    assert plain > clipped
    assert corrected > plain
    assert best > plain


def test_several_targets_share_one_calibration(model: bytes, data: dict[str, np.ndarray], tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(model)
    targets = ["x86-avx2", "arm64-dotprod", "x86-avx2"]
    results = Quantization(tmp_path / "net.onnx", data, evaluation=data).write_all(targets, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert [file["target"] for file in manifest["files"]] == ["x86-avx2", "arm64-dotprod"]
    for file, (path, result) in zip(manifest["files"], results.items(), strict=True):
        assert file["file"] == path.name == f"net.{file['target']}.onnx"
        content = path.read_bytes()
        assert content == result.content == quantize(model, data, None, target=file["target"]).content
        assert hashlib.sha256(content).hexdigest() == file["sha256"]


def test_a_file_for_avx2_is_the_same_fused_and_exact(model: bytes, data: dict[str, np.ndarray]) -> None:
    """No pair can saturate: the optimized file differs from the literal one by rounding only."""
    import onnxruntime

    content = quantize(model, data, None, target="x86-avx2").content
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    exact = onnxruntime.InferenceSession(content, options).run(None, {"input": data["input"]})[0]
    fused = open_model(content).run({"input": data["input"]})[0]
    assert np.abs(fused - exact).max() <= 0.05 * np.abs(exact).max()


def test_the_result_in_json(model: bytes, data: dict[str, np.ndarray]) -> None:
    content = quantize(model, data, None, target="arm64-dotprod", samples=10).to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["schema"] == "edgekd.quantization/1"
    assert content["target"] == "arm64-dotprod"
    assert content["fp32_layers"] == []
    assert content["calibration"] == {"samples": 10, "method": "mse", "synthetic": False}
    assert content["gate"] == {"max_drop": None, "met": None}


def test_calibrated_ranges_are_kept(model: bytes, data: dict[str, np.ndarray], tmp_path: Path) -> None:
    first = quantize(model, data, None, cache=tmp_path)
    assert len(list(tmp_path.glob("*.ranges.json"))) == 1
    assert quantize(model, data, None, cache=tmp_path).content == first.content == quantize(model, data, None).content
    assert quantize(model, data, None, cache=tmp_path, method=Method(ranges="minmax")).content != first.content
    assert len(list(tmp_path.glob("*.ranges.json"))) == 2


def test_every_choice_of_the_method_is_on_the_command_line_and_in_recipes() -> None:
    from edgekd.cli.quantize import command
    from edgekd.recipe import QuantizeSettings

    defaults = {parameter.name: parameter.default for parameter in command.params}
    settings = QuantizeSettings()
    for name, value in asdict(Method()).items():
        assert defaults[name] == value
        assert getattr(settings, name) == value


def test_the_file_says_what_it_is_for(model: bytes, data: dict[str, np.ndarray]) -> None:
    proto = onnx.load_from_string(quantize(model, data, None, target="arm64").content)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert metadata["edgekd.target"] == "arm64"
    assert proto.ir_version <= 10


def test_twice_gives_the_same_bytes(model: bytes, data: dict[str, np.ndarray]) -> None:
    assert quantize(model, data, None).content == quantize(model, data, None).content


def test_a_missed_gate_is_said_and_the_file_kept(model: bytes, data: dict[str, np.ndarray], tmp_path: Path) -> None:
    data["labels"] = np.zeros_like(data["labels"])
    narrow = {"input": data["input"] * np.float32(0.001)}
    result = quantize(model, narrow, tmp_path / "q.onnx", evaluation={"input": data["input"]}, max_drop=0.0)
    assert result.gate_met is False
    assert (tmp_path / "q.onnx").exists()


def test_a_gate_needs_data(model: bytes, data: dict[str, np.ndarray]) -> None:
    with pytest.raises(UsageError, match="--evaluation"):
        quantize(model, data, None, max_drop=0.1)


def test_what_cannot_be_quantized_is_refused(model: bytes, data: dict[str, np.ndarray], tmp_path: Path) -> None:
    twice = quantize(model, data, None).content
    with pytest.raises(ModelError, match="quantized already"):
        quantize(twice, data, tmp_path / "q.onnx")
    relu = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[N, 3, 8, 8] input) => (float[N, 3, 8, 8] y) { y = Relu(input) }'
    )
    with pytest.raises(ModelError, match="nothing to quantize"):
        quantize(relu.SerializeToString(), data, tmp_path / "q.onnx")
    (tmp_path / "no.onnx").write_text("this is no model")
    with pytest.raises(ModelError, match="not an ONNX model"):
        quantize(tmp_path / "no.onnx", data, tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_the_fp32_model_is_never_overwritten(model: bytes, data: dict[str, np.ndarray], tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model)
    with pytest.raises(UsageError, match="this is the fp32 model itself"):
        quantize(tmp_path / "m.onnx", data, tmp_path / "." / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == model


def test_weights_beside_the_file_are_quantized_like_those_inside(
    model: bytes, data: dict[str, np.ndarray], tmp_path: Path
) -> None:
    proto = onnx.load_from_string(model)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    assert quantize(tmp_path / "m.onnx", data, None).content == quantize(model, data, None).content
    (tmp_path / "m.bin").unlink()
    with pytest.raises(ModelError, match=r"m\.onnx"):
        quantize(tmp_path / "m.onnx", data, None)


def test_a_float16_model_is_refused(model: bytes, data: dict[str, np.ndarray]) -> None:
    half = onnx.load_from_string(model)
    for tensor in half.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    inputs = {"input": data["input"].astype(np.float16)}
    with pytest.raises(ModelError, match="holds float16 activations"):
        quantize(half.SerializeToString(), inputs, None)


def test_a_model_of_one_layer_on_its_own_input() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[N, 3] input) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> '
        "{ y = MatMul(input, w) }"
    )
    inputs = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    found = quantize(model.SerializeToString(), {"input": inputs}, None, evaluation={"input": inputs}).evaluation
    assert found is not None
    assert found.sqnr_db is not None
    assert found.sqnr_db > 30


def chain(bias: np.ndarray, weights: np.ndarray, **attributes: Any) -> bytes:
    """Return Conv, Relu and a mean over the pixels, on (N, 3, 8, 8)."""
    nodes = [
        helper.make_node("Conv", ["input", "w", "b"], ["c"], "conv", **attributes),
        helper.make_node("Relu", ["c"], ["y"], "relu"),
    ]
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", None, 8, 8]) for n in ("input", "y")]
    constants = [numpy_helper.from_array(value.astype(np.float32), n) for n, value in (("w", weights), ("b", bias))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_channels_of_zeros_and_huge_biases_survive(images: np.ndarray, rounding: Literal["nearest", "gptq"]) -> None:
    """A channel whose weights are next to nothing would have steps so small that its bias leaves int32."""
    weights = np.random.default_rng(0).normal(0, 0.3, (5, 3, 3, 3))
    weights[1], weights[2], weights[3, 1:] = 0, weights[2] * 1e-12, 0
    content = chain(np.array([0.1, 2, 3, 0, 0]), weights, pads=[1] * 4)
    found = quantize(content, {"input": images}, None, target="x86-avx2", method=Method(rounding=rounding))
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(found.content).graph.initializer}
    whole = stored["b_quantized"].astype(np.int64)
    assert (np.abs(whole) <= 2**30 + 1).all()
    assert (stored["w_scale"] >= np.finfo(np.float32).tiny).all()
    assert not stored["w_quantized"][1:3].any()
    expected = open_model(content).run({"input": images})[0]
    outputs = open_model(found.content).run({"input": images})[0]
    np.testing.assert_allclose(outputs[:, 1:3], expected[:, 1:3], atol=expected.max() / 255)
    np.testing.assert_allclose(outputs, expected, atol=expected.max() / 40)


@pytest.mark.parametrize("ranges", ["minmax", "mse", "percentile"])
@pytest.mark.parametrize("target", ["x86-avx2", "arm64"])
def test_zero_padding_is_exact_where_no_activation_is_near_zero(
    images: np.ndarray, target: str, ranges: Literal["minmax", "mse", "percentile"]
) -> None:
    """Padding is the zero point: it stands for 0 although calibration saw nothing below 5."""
    far = (5 + np.abs(images) / np.abs(images).max()).astype(np.float32)
    content = chain(np.zeros(4), np.abs(np.random.default_rng(1).normal(0, 0.3, (4, 3, 3, 3))), pads=[1] * 4)
    found = quantize(content, {"input": far}, None, target=target, method=Method(ranges=ranges))
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(found.content).graph.initializer}
    assert float(stored["input_scale"]) == pytest.approx(far.max() / 255, rel=0.2)
    expected = open_model(content).run({"input": far})[0]
    outputs = open_model(found.content).run({"input": far})[0]
    edge = np.ones((8, 8), bool)
    edge[1:-1, 1:-1] = False
    assert np.abs(outputs - expected)[..., edge].max() <= 0.02 * expected.max()
