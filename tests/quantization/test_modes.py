"""The other ways to quantize: dynamic INT8 and weights in float16."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd import quantize
from edgekd.errors import ModelError, UsageError
from edgekd.quantization.modes import open_job
from edgekd.quantization.saturation import certify
from edgekd.quantization.static import Method
from edgekd.runtime import open_model
from edgekd.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RNG = np.random.default_rng(0)
ROWS = RNG.normal(0, 1, (40, 64)).astype(np.float32)


def mlp(*, alike: bool = False) -> onnx.ModelProto:
    """Return Gemm-Relu-MatMul on (N, 64), with an exporter's traces; `alike`: weights of one sign."""
    weights = {
        "w1": RNG.normal(0, 0.2, (128, 64)),
        "b1": RNG.normal(0, 0.1, 128),
        "w2": RNG.normal(0, 0.2, (128, 10)),
    }
    if alike:
        weights["w2"] = np.abs(weights["w2"])
    nodes = [
        helper.make_node("Gemm", ["input", "w1", "b1"], ["h"], "first", transB=1, doc_string="/home/somebody/net.py"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w2"], ["logits"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=11)
    model.metadata_props.add(key="exporter.trace", value="/home/somebody")
    model.metadata_props.add(key="edgekd.recipe", value="r")
    return model


@pytest.fixture
def model() -> bytes:
    return mlp().SerializeToString()


def metadata(content: bytes) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}


def operators(content: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(content).graph.node]


@pytest.mark.parametrize(
    ("mode", "size", "sqnr_db", "expected"),
    [
        ("static", 0.4, 25, {"edgekd.mode": "static", "edgekd.recipe": "r", "edgekd.target": "x86-avx2"}),
        ("dynamic", 0.4, 25, {"edgekd.mode": "dynamic", "edgekd.recipe": "r", "edgekd.target": "x86-avx2"}),
        ("fp16", 0.55, 60, {"edgekd.mode": "fp16", "edgekd.recipe": "r"}),
    ],
)
def test_a_file_is_small_close_to_fp32_and_clean(
    model: bytes, tmp_path: Path, mode: Any, size: float, sqnr_db: float, expected: dict[str, str]
) -> None:
    calibration = {"input": ROWS} if mode == "static" else None
    evaluation = {"input": ROWS}
    result = quantize(
        model, calibration, tmp_path / "q.onnx", mode=mode, target="x86-avx2", evaluation=evaluation, max_drop=0.1
    )
    content = (tmp_path / "q.onnx").read_bytes()
    assert content == result.content
    assert len(content) < size * len(model)
    assert result.evaluation is not None
    assert result.evaluation.sqnr_db is not None
    assert result.evaluation.sqnr_db > sqnr_db
    assert result.gate_met is True
    assert metadata(content) == expected
    assert b"somebody" not in content
    proto = onnx.load_from_string(content)
    assert proto.ir_version <= 10
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    onnx.checker.check_model(proto, full_check=True)
    assert result.effective["mode"] == mode
    assert json.loads(json.dumps(result.to_json(), allow_nan=False)) == result.to_json()
    assert quantize(model, calibration, None, mode=mode, target="x86-avx2").content == content


def test_dynamic_weights_are_safe_on_their_target_and_keep_8_bits() -> None:
    model = mlp(alike=True).SerializeToString()
    wide = quantize(model, None, None, mode="dynamic", target="x86-vnni")
    safe = quantize(model, None, None, mode="dynamic", target="x86-avx2")
    assert certify(onnx.load_from_string(wide.content), TARGETS["x86-avx2"]).saturating
    assert len(safe.saturation.layers) == 2
    assert not safe.saturation.saturating
    weights = [numpy_helper.to_array(t) for t in onnx.load_from_string(safe.content).graph.initializer]
    assert max(np.abs(w).max() for w in weights if w.dtype == np.int8) > 64  # not 7 bits
    assert safe.effective["scales"] == "pair-safe"
    assert wide.effective["scales"] == "full"


def test_a_dynamic_answer_depends_on_its_batch_and_is_scored_alone(model: bytes) -> None:
    loud = ROWS.copy()
    loud[1:] *= 50
    result = quantize(model, None, None, mode="dynamic", evaluation={"input": loud})
    file = open_model(result.content)
    together = file.run({"input": loud})[0]
    alone = np.concatenate([file.run({"input": row[None]})[0] for row in loud])
    assert np.abs(together[0] - alone[0]).max() > 1e-3
    fp32 = open_model(model).run({"input": loud})[0]
    assert result.evaluation is not None
    assert result.evaluation.sqnr_db == pytest.approx(
        10 * np.log10(np.square(fp32).sum() / np.square(fp32 - alone).sum()), rel=1e-3
    )
    assert result.to_json()["effective"]["batch_dependent"] is True


def test_dynamic_leaves_convolutions_and_products_of_activations_alone(
    make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray
) -> None:
    mixed = quantize(make_conv_net().SerializeToString(), None, None, mode="dynamic")
    assert mixed.fp32_layers == ("conv1", "conv2")
    assert operators(mixed.content).count("MatMulInteger") == 1
    products = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[N, 3, 3] a, float[N, 3, 3] b) => (float[N, 3, 3] y) '
        "{ y = MatMul(a, b) }"
    )
    with pytest.raises(ModelError, match="none of its Gemm and MatMul has weights"):
        quantize(products.SerializeToString(), None, None, mode="dynamic")


def test_float16_runs_as_fp32_once_it_is_open(model: bytes) -> None:
    result = quantize(model, None, None, mode="fp16")
    assert operators(result.content).count("Cast") == 3
    assert result.audit.quantized == {}
    assert not any("Cast" in island.operators for island in result.audit.islands)
    fp32, half = (open_model(content).run({"input": ROWS})[0] for content in (model, result.content))
    assert np.abs(fp32 - half).max() < 0.01 * np.abs(fp32).max()


def test_what_float16_cannot_hold_stays(model: bytes) -> None:
    large = onnx.load_from_string(model)
    weight = next(tensor for tensor in large.graph.initializer if tensor.name == "w1")
    values = numpy_helper.to_array(weight).copy()
    values[0, 0] = 1e5
    weight.CopyFrom(numpy_helper.from_array(values, "w1"))
    tensors = onnx.load_from_string(quantize(large.SerializeToString(), None, None, mode="fp16").content).graph
    kinds = {tensor.name: tensor.data_type for tensor in tensors.initializer}
    assert kinds["w1"] == onnx.TensorProto.FLOAT
    assert kinds["w2.float16"] == onnx.TensorProto.FLOAT16
    small = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[N, 3] x) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> '
        "{ y = MatMul(x, w) }"
    )
    with pytest.raises(ModelError, match="no weights to store in float16"):
        quantize(small.SerializeToString(), None, None, mode="fp16")


def test_other_modes_are_timed_with_made_up_input(model: bytes) -> None:
    for mode in ("dynamic", "fp16"):
        result = open_job(model, None, mode=mode, measure=True).write("auto", None)  # type: ignore[arg-type]
        assert result.speed is not None
        assert result.audit.time_us is not None


def test_what_a_mode_does_not_read_is_refused(model: bytes) -> None:
    with pytest.raises(UsageError, match="perhaps you meant 'dynamic'"):
        quantize(model, None, None, mode="dynamics")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--calibration synthetic"):
        quantize(model, None, None)
    for given in ({"method": Method()}, {"samples": 3}, {"cache": "folder"}):
        with pytest.raises(UsageError, match=f"{next(iter(given))} belongs to static INT8"):
            quantize(model, None, None, mode="fp16", **given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="calibration belongs to static INT8"):
        quantize(model, {"input": ROWS}, None, mode="dynamic")
