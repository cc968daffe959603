"""Mixed precision by measurement: the right layers stay in fp32, and they really run there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgekd import quantize
from edgekd.quantization.costs import Cost, layer_costs
from edgekd.quantization.fallback import fp32_nodes, fp32_values
from edgekd.quantization.sensitivity import (
    GIVEN_BACK,
    Attempt,
    Search,
    Sensitivity,
    keep_fewest,
    most_evaluations,
)
from edgekd.runtime import open_model
from edgekd.scoring import Evaluation

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekd.quantization.result import Quantized


def attempt(fp32: frozenset[str], drop: float) -> Attempt:
    evaluation = Evaluation(
        path="m",
        sha256="",
        device="local",
        samples=100,
        top1=None,
        agreement=1 - drop,
        sqnr_db=20.0,
        reference_top1=None,
    )
    return Attempt(fp32=fp32, content=b"", evaluation=evaluation)


def search(ranked: str, drop: Callable[[frozenset[str]], float], max_drop: float) -> tuple[Search, list[str]]:
    """Search among layers of one letter each, the most sensitive first; return what was tried beside the result."""
    tried: list[str] = []

    def make(fp32: frozenset[str]) -> Attempt:
        tried.append("".join(sorted(fp32)))
        return attempt(fp32, drop(fp32))

    sensitivities = [
        Sensitivity(cost=Cost(layer=name, op_type="Conv", weight_bytes=1, multiply_accumulates=10), noise=1.0)
        for name in ranked
    ]
    return keep_fewest(attempt(frozenset(), drop(frozenset())), sensitivities, make, max_drop), tried


def needing(layers: str, step: float = 0.1) -> Callable[[frozenset[str]], float]:
    """Return the drop of a model that loses `step` for each of these layers in INT8."""
    return lambda fp32: step * len(set(layers) - fp32)


@pytest.mark.parametrize("needed", ["a", "ab", "b", "ac", "ad", "bcd", "abcdef"])
def test_just_the_layers_that_are_needed_are_kept(needed: str) -> None:
    found, tried = search("abcdefghijkl", needing(needed), 0.05)
    assert "".join(sorted(found.best.fp32)) == needed
    assert found.met
    assert found.evaluations == len(tried) + 1
    assert len(tried) <= most_evaluations(12)
    assert len(set(tried)) == len(tried)


def test_a_goal_met_halfway_keeps_fewer() -> None:
    found, _ = search("abcdefghijkl", needing("abcd"), 0.25)
    assert len(found.best.fp32) == 2
    assert found.reason == (
        "2 of 12 layers stay in fp32 (16.7% of the multiply-accumulates): with every layer in INT8 the drop was 0.4, "
        "at most 0.25 is allowed"
    )


def test_a_goal_out_of_reach_gives_the_fewest_layers_of_the_least_drop() -> None:
    found, _ = search("abcdefgh", needing("ahg"), 0.05)
    assert not found.met
    assert found.best.fp32 == {"a"}
    assert found.reason.startswith("no file met a drop of 0.05: in the best of ")
    assert "1 of 8 layers stays in fp32" in found.reason
    assert "the drop is 0.2; with every layer in INT8 it was 0.3" in found.reason


def test_layers_that_do_not_help_are_not_kept() -> None:
    found, tried = search("abcdefgh", lambda fp32: 0.3, 0.05)
    assert found.best.fp32 == frozenset()
    assert len(tried) == 1


def test_an_only_layer_is_not_kept() -> None:
    found, tried = search("a", needing("a"), 0.05)
    assert found.best.fp32 == frozenset()
    assert not tried
    assert "its only layer" in found.reason


def test_the_number_of_files_is_bounded_by_the_logarithm_of_the_layers() -> None:
    assert most_evaluations(50) == 5 + 1 + GIVEN_BACK
    assert most_evaluations(1000) == 9 + 1 + GIVEN_BACK


# --- on models -------------------------------------------------------------------------------------------------------


def changed(model: onnx.ModelProto, images: np.ndarray, change: Callable[[dict[str, np.ndarray]], None]) -> bytes:
    """Return a model with other weights, and a last bias with which it chooses all classes about as often."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {name: numpy_helper.to_array(tensor).copy() for name, tensor in tensors.items()}
    change(weights)
    for _ in range(2):
        for name, value in weights.items():
            tensors[name].CopyFrom(numpy_helper.from_array(value, name))
        weights["b3"] -= open_model(model.SerializeToString()).run({"input": images})[0].mean(axis=0)
    return model.SerializeToString()


@pytest.fixture
def fragile(make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray) -> bytes:
    """Return the network with huge weights in the second convolution, which meet a channel that is always 0."""

    def change(weights: dict[str, np.ndarray]) -> None:
        weights["w2"] *= 4
        weights["w1"][0], weights["b1"][0], weights["w2"][:, 0] = 0, -1, 3000

    return changed(make_conv_net(), images, change)


@pytest.fixture
def outlier(make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray) -> bytes:
    """Return the network with a first convolution that looks away from the third channel of its input."""

    def change(weights: dict[str, np.ndarray]) -> None:
        weights["w1"][:, 2] = 0

    return changed(make_conv_net(), images, change)


def optimized(content: bytes, folder: Path) -> onnx.GraphProto:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx").graph


def quantized(model: bytes, images: np.ndarray, max_drop: float | None) -> Quantized:
    data = {"input": images}
    return quantize(model, data, None, target="x86-avx2", evaluation=data, max_drop=max_drop)


def test_the_fragile_layer_alone_is_kept_and_runs_in_fp32(fragile: bytes, images: np.ndarray, tmp_path: Path) -> None:
    plain = quantized(fragile, images, None)
    assert plain.evaluation is not None
    assert plain.evaluation.drop > 0.05
    assert plain.search is None
    mixed = quantized(fragile, images, 0.05)
    assert mixed.gate_met is True
    assert mixed.fp32_layers == ("conv2",)
    assert mixed.search is not None
    assert mixed.search.sensitivities[0].cost.layer == "conv2"
    assert mixed.search.sensitivities[0].noise > 20 * mixed.search.sensitivities[1].noise
    graph = optimized(mixed.content, tmp_path)
    operators = [node.op_type for node in graph.node]
    assert operators.count("QLinearConv") == 1
    assert operators.count("Conv") + operators.count("FusedConv") == 1
    assert operators.count("QGemm") == 1
    second = next(n for n in graph.node if n.op_type in ("Conv", "FusedConv"))
    weights = next(tensor for tensor in graph.initializer if tensor.name == second.input[1])
    assert weights.data_type == onnx.TensorProto.FLOAT
    assert [layer.name for layer in mixed.saturation.layers] == ["conv1", "fc"]


def test_an_outlier_keeps_the_layer_that_reads_it(outlier: bytes, images: np.ndarray) -> None:
    wild = images.copy()
    wild[:, 2] *= 3000
    mixed = quantized(outlier, wild, 0.05)
    assert mixed.fp32_layers == ("conv1",)
    assert mixed.gate_met is True


def test_a_goal_out_of_reach_gives_the_best_attempt_and_a_reason(
    make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray, tmp_path: Path
) -> None:
    model = make_conv_net().SerializeToString()
    narrow = {"input": images * np.float32(0.001)}
    wide = {"input": images}
    without = quantize(model, narrow, None, evaluation=wide).evaluation
    found = quantize(model, narrow, tmp_path / "q.onnx", evaluation=wide, max_drop=0.0)
    assert found.gate_met is False
    assert found.search is not None
    assert found.search.reason.startswith("no file met a drop of 0: ")
    assert found.evaluation is not None
    assert without is not None
    assert found.evaluation.drop <= without.drop
    assert (tmp_path / "q.onnx").read_bytes() == found.content


def test_the_search_in_json_and_twice_the_same(fragile: bytes, images: np.ndarray) -> None:
    first, second = (quantized(fragile, images, 0.05) for _ in range(2))
    content = first.to_json()
    assert content == second.to_json()
    assert first.content == second.content
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["fp32_layers"] == ["conv2"]
    assert content["fp32_reason"].startswith("1 of 3 layers stays in fp32 (")
    assert content["mixed_precision"]["met"] is True
    worst = content["mixed_precision"]["sensitivities"][0]
    assert worst["layer"] == "conv2"
    assert worst["weight_bytes"] == 3 * 8 * 8 * 9
    assert worst["multiply_accumulates"] == 8 * 8 * 8 * 8 * 9
    plain = quantized(fragile, images, None).to_json()
    assert plain["fp32_reason"] is None
    assert plain["mixed_precision"] is None


def test_costs_are_counted_from_shapes() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[N, 6, 8] x) => (float[N, 6, 6] y)
        <float[8, 4] w = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}> {
            [one] a = MatMul(x, w)
            b = Transpose <perm = [0, 2, 1]> (a)
            [two] y = MatMul(a, b)
        }"""
    )
    one, two = layer_costs(onnx.shape_inference.infer_shapes(model))
    assert (one.layer, one.weight_bytes, one.multiply_accumulates) == ("one", 3 * 32, 6 * 4 * 8)
    assert (two.layer, two.weight_bytes, two.multiply_accumulates) == ("two", 0, 6 * 6 * 4)


# --- what else stays in fp32 -----------------------------------------------------------------------------------------

AROUND = """<ir_version: 10, opset_import: ["" : 18]>
g (float[N, 4, 4] x, int64[N, 4] ids) => (float[N, 4, 4] y)
<float[4, 4] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}, float[1] std = {2}, float[1] big = {-1000},
 float[9, 4] table = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,1,2,3,4}> {
    [normalise] n = Mul(x, std)
    [first] a = MatMul(n, w)
    [embed] e = Gather(table, ids)
    [embedded] s = Add(e, e)
    [second] b = MatMul(s, w)
    [scores] c = Add(a, b)
    [cast] f = Cast <to = 1> (ids)
    [axis] u = Unsqueeze(f, one)
    [mask] m = Mul(u, big)
    [masked] d = Add(c, m)
    [soft] p = Softmax(d)
    [third] t = MatMul(p, w)
    [ends] y = Softmax(t)
}"""


@pytest.fixture
def around() -> onnx.ModelProto:
    model = onnx.parser.parse_model(AROUND)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def test_what_no_integer_layer_has_rounded_stays_in_fp32(around: onnx.ModelProto) -> None:
    """Normalising and embedding before the first layer, an attention mask and what it is added to, probabilities."""
    left = fp32_nodes(around)
    assert left == ("normalise", "embedded", "scores", "axis", "mask", "masked", "soft", "ends")


def test_what_follows_a_matmul_or_multiplies_two_activations_stays_in_fp32() -> None:
    """A transformer's attention: only the products with weights are integer layers."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 18]>
        g (float[N, 4, 4] x) => (float[N, 4, 4] y) <float[4, 4] v = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7},
        float[4, 4] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}> {
            [query] q = MatMul(x, w)
            [turn] t = Transpose <perm = [0, 2, 1]> (q)
            [attend] a = MatMul(q, t)
            [out] o = MatMul(a, v)
            [residual] y = Add(o, q)
        }""")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    assert fp32_nodes(inferred) == ("turn", "attend", "residual")
    assert fp32_values(inferred) == {"x", "q", "t", "a", "o", "y"}


def test_what_reads_a_layer_in_fp32_stays_there_too(make_conv_net: Callable[..., onnx.ModelProto]) -> None:
    model = onnx.shape_inference.infer_shapes(make_conv_net(), strict_mode=True, data_prop=True)
    assert fp32_nodes(model) == ()
    assert fp32_nodes(model, {"conv1"}) == ("conv1", "relu1", "add", "relu2", "pool", "flatten")
