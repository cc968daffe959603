"""Passes that make a model run in integers: each gives the same values, and does what it says."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd import quantize
from edgekd.graph.arithmetic import constants_to_sums_and_products
from edgekd.graph.float_outputs import keep_float_outputs
from edgekd.graph.fusible import make_fusible
from edgekd.graph.guard import guard
from edgekd.graph.hard_sigmoid import hard_sigmoid_to_sum
from edgekd.graph.names import name_nodes
from edgekd.graph.normalisation import normalisation_to_convolution
from edgekd.graph.order import sort_nodes
from edgekd.graph.unused import drop_unread_conversions
from edgekd.runtime import open_model

if TYPE_CHECKING:
    from collections.abc import Callable

SCALES = "float s = {0.05}, uint8 z = {110}, float t = {0.00392156}, uint8 u = {0}"


def parse(signature: str, constants: str, *nodes: str) -> onnx.ModelProto:
    """Return a model with inferred shapes."""
    text = f'<ir_version: 10, opset_import: ["" : 18]> g {signature} <{constants}> {{ {chr(10).join(nodes)} }}'
    return onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text), strict_mode=True, data_prop=True)


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    return open_model(model.SerializeToString()).run(inputs)[0]


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(("signature", "op"), [("x / c", "Div"), ("x - c", "Sub")])
def test_a_number_is_added_or_multiplied(signature: str, op: str) -> None:
    model = parse("(float[4] x) => (float[4] y)", "float c = {3}", f"y = {op}(x, c)")
    x = np.array([0, 1, -5, 1e6], np.float32)
    before = run(model, x=x)
    assert constants_to_sums_and_products(model) == 1
    assert operators(model) == ["Mul" if op == "Div" else "Add"]
    np.testing.assert_allclose(run(model, x=x), before, rtol=1e-6)


@pytest.mark.parametrize(
    ("constant", "node"),
    [
        ("float c = {0}", "y = Div(x, c)"),
        ("float c = {1e-42}", "y = Div(x, c)"),
        ("float[2] c = {1, 2}", "y = Div(x, c)"),
        ("float c = {3}", "y = Sub(c, x)"),
    ],
)
def test_other_divisions_and_subtractions_stay(constant: str, node: str) -> None:
    model = parse("(float[2] x) => (float[2] y)", constant, node)
    assert constants_to_sums_and_products(model) == 0


@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_over_pixels_becomes_a_pooling(keepdims: int) -> None:
    output = "float[N, 3, 1, 1]" if keepdims else "float[N, 3]"
    node = f"y = ReduceMean <keepdims = {keepdims}> (x, axes)"
    model = parse(f"(float[N, 3, 4, 5] x) => ({output} y)", "int64[2] axes = {-1, 2}", node)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    before = run(model, x=x)
    model = make_fusible(model)
    assert operators(model) == ["GlobalAveragePool", *([] if keepdims else ["Flatten"])]
    np.testing.assert_allclose(run(model, x=x), before, rtol=1e-5, atol=1e-6)


def test_another_mean_stays() -> None:
    model = parse("(float[N, 3, 4] x) => (float[N, 3] y)", "int64[1] a = {2}", "y = ReduceMean <keepdims = 0> (x, a)")
    assert operators(make_fusible(model)) == ["ReduceMean"]


STATISTICS = "float[3] g = {1, -2, 0}, float[3] b = {0.5, 0, 1}, float[3] m = {0, 4, 1}, float[3] v = {1, 9, 0}"


@pytest.mark.parametrize("size", [[5], [4, 5], [2, 3, 4]])
def test_a_normalisation_behind_a_layer_becomes_a_depthwise_convolution(size: list[int]) -> None:
    shape = str([3, *size])[1:-1]
    model = parse(
        f"(float[N, {shape}] x, float[N, {shape}] z) => (float[N, {shape}] y)",
        f"{STATISTICS}, float[3, 1, {str([1] * len(size))[1:-1]}] w = {{1, 2, 3}}",
        "a = Conv <group = 3> (x, w)",
        "s = Add(a, z)",
        "[norm] y = BatchNormalization <epsilon = 0.001> (s, g, b, m, v)",
    )
    x, z = np.random.default_rng(0).normal(size=(2, 2, 3, *size)).astype(np.float32)
    before = run(model, x=x, z=z)
    assert normalisation_to_convolution(model) == 1
    assert operators(model) == ["Conv", "Add", "Conv"]
    assert model.graph.node[-1].name == "norm"
    np.testing.assert_allclose(run(model, x=x, z=z), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("signature", "constants", "nodes"),
    [
        ("(float[N, 3, 2, 2] x) => (float[N, 3, 2, 2] y)", STATISTICS, ["y = BatchNormalization(x, g, b, m, v)"]),
        (
            "(float[N, 3] x) => (float[N, 3] y)",
            f"{STATISTICS}, float[3, 3] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9}}",
            ["a = MatMul(x, w)", "y = BatchNormalization(a, g, b, m, v)"],
        ),
        (
            "(float[N, 1, 2] x) => (float[N, 3, 2] y)",
            f"float[3, 1, 1] w = {{1, 2, 3}}, {STATISTICS}",
            ["a = Conv(x, w)", "h = Abs(g)", "y = BatchNormalization(a, h, b, m, v)"],
        ),
    ],
    ids=["of the input", "of vectors", "computed"],
)
def test_another_normalisation_stays(signature: str, constants: str, nodes: list[str]) -> None:
    model = parse(signature, constants, *nodes)
    assert normalisation_to_convolution(model) == 0


def test_nodes_are_named_apart(make_conv_net: Callable[..., onnx.ModelProto]) -> None:
    model = make_conv_net()
    for node, name in zip(model.graph.node, ["", "Relu_0", "", "x", "x", "", "", "Conv_1"], strict=True):
        node.name = name
    assert name_nodes(model) == 5
    names = [node.name for node in model.graph.node]
    assert names == ["Conv_0", "Relu_0", "Conv_2", "x", "Relu_1", "GlobalAveragePool_0", "Flatten_0", "Conv_1"]
    assert name_nodes(model) == 0


def test_nodes_are_sorted_and_a_sorted_graph_stays(make_conv_net: Callable[..., onnx.ModelProto]) -> None:
    model = make_conv_net()
    expected = [node.name for node in model.graph.node]
    sort_nodes(model)
    assert [node.name for node in model.graph.node] == expected
    shuffled = [model.graph.node[index] for index in (7, 3, 0, 5, 2, 6, 1, 4)]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in shuffled]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    with pytest.raises(onnx.checker.ValidationError, match="sorted"):
        onnx.checker.check_model(model)
    sort_nodes(model)
    onnx.checker.check_model(model, full_check=True)


def test_what_a_branch_reads_comes_before_it() -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["late"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, [1])],
    )
    nodes = [
        helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Neg", ["x"], ["late"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.array(True), "yes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    sort_nodes(model)
    assert operators(model) == ["Neg", "If"]
    assert run(model, x=np.ones(1, np.float32)) == [-1]


@pytest.mark.parametrize(("slope", "offset"), [(1 / 6, 0.5), (0.2, 0.5), (0.01, 0.9)])
def test_hard_sigmoid_of_every_integer_as_a_sum(slope: float, offset: float) -> None:
    model = parse(
        "(uint8[256] x) => (uint8[256] y)",
        SCALES,
        "a = DequantizeLinear(x, s, z)",
        f"[hard] h = HardSigmoid <alpha = {slope}, beta = {offset}> (a)",
        "y = QuantizeLinear(h, t, u)",
    )
    x = np.arange(256, dtype=np.uint8)
    before = run(model, x=x)
    assert hard_sigmoid_to_sum(model) == 1
    assert drop_unread_conversions(model) == 1
    assert Counter(operators(model)) == {"DequantizeLinear": 2, "Add": 1, "QuantizeLinear": 1}
    after = run(model, x=x)
    assert (before == after).mean() > 0.95
    assert np.abs(before.astype(int) - after).max() <= 1


@pytest.mark.parametrize(
    ("constants", "nodes"),
    [
        ("float s = {0.05}, uint8 z = {9}, float t = {0.008}, uint8 u = {0}", ()),  # quantizes up to 2: does not clip
        ("float s = {0.05}, uint8 z = {9}, float t = {0.004}, uint8 u = {9}", ()),  # and below 0
        (SCALES, ("[second] w = Neg(h)",)),  # and another reader
    ],
)
def test_a_hard_sigmoid_that_quantizing_does_not_clip_stays(constants: str, nodes: tuple[str, ...]) -> None:
    model = parse(
        "(uint8[256] x) => (uint8[256] y)",
        constants,
        "a = DequantizeLinear(x, s, z)",
        "[hard] h = HardSigmoid(a)",
        "y = QuantizeLinear(h, t, u)",
        *nodes,
    )
    assert hard_sigmoid_to_sum(model) == 0


def test_a_guard_stands_only_behind_dequantized_values() -> None:
    model = parse(
        "(uint8[1, 2, 3, 3] x) => (float[1, 2, 1, 1] y)",
        SCALES,
        "a = DequantizeLinear(x, s, z)",
        "m = MaxPool <kernel_shape = [1, 1]> (a)",
        "[one] b = Conv(m, w)",
        "[two] y = Conv(b, w)",
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 2, 2, 2), np.float32), "w"))
    x = np.arange(18, dtype=np.uint8).reshape(1, 2, 3, 3)
    before = run(model, x=x)
    assert guard(model, ["one", "two"]) == 1
    assert operators(model) == ["DequantizeLinear", "MaxPool", "Sum", "Conv", "Conv"]
    np.testing.assert_array_equal(run(model, x=x), before)


@pytest.mark.parametrize(("integer", "removed"), [((), 1), (("behind",), 0)])
def test_a_float_output_is_kept_where_nothing_reads_integers(integer: tuple[str, ...], removed: int) -> None:
    model = parse(
        "(float[2, 2] x) => (float[2, 2] y)",
        f"float[2, 2] w = {{1, 2, 3, 4}}, {SCALES}",
        "[layer] a = MatMul(x, w)",
        "q = QuantizeLinear(a, s, z)",
        "d = DequantizeLinear(q, s, z)",
        "[behind] y = Relu(d)",
    )
    assert keep_float_outputs(model, integer) == removed
    assert operators(model) == ["MatMul", *([] if removed else ["QuantizeLinear", "DequantizeLinear"]), "Relu"]
    x = np.array([[1, 0.51], [0, -1]], np.float32)
    rtol = 1e-6 if removed else 0.05
    np.testing.assert_allclose(run(model, x=x), np.maximum(x @ [[1, 2], [3, 4]], 0), rtol=rtol)


@pytest.mark.parametrize("activation", ["Relu(z)", "Clip(z, zero, two)"])
@pytest.mark.parametrize("layer", ["MatMul(x, w)", "Gemm(x, w)"])
@pytest.mark.parametrize("behind", ["Identity(r)", "Log(s)"])
def test_an_activation_behind_a_last_layer_stays(layer: str, activation: str, behind: str) -> None:
    """onnxruntime's quantizer leaves a Relu to the clipping of the QuantizeLinear that is removed."""
    one = "s = Add(r, two)" if behind == "Log(s)" else ""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[N, 3] x) => (float[N, 2] y) '
        "<float[3, 2] w = {1, -2, 3, -4, 5, 6}, float zero = {0}, float two = {2}> "
        f"{{ z = {layer} r = {activation} {one} y = {behind} }}"
    )
    inputs = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    result = quantize(model.SerializeToString(), {"x": inputs}, None, evaluation={"x": inputs})
    assert result.evaluation is not None
    assert result.evaluation.sqnr_db is not None
    assert result.evaluation.sqnr_db > 25
