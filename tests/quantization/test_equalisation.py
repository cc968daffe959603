"""Scaling channels leaves the function as it is, and brings 8 bits nearer to it where channels differ widely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd import quantize
from edgekd.data import ArraySamples
from edgekd.quantization.equalisation import HEADROOM, equalise, factors, find_pairs
from edgekd.quantization.layers import find_layers
from edgekd.quantization.static import Method
from edgekd.runtime import open_model
from tests.quantization.calibrations import over

if TYPE_CHECKING:
    from collections.abc import Sequence

node = helper.make_node
IMAGES = np.random.default_rng(0).normal(0, 1, (24, 3, 8, 8)).astype(np.float32)


def build(nodes: Sequence[onnx.NodeProto], *, spread: float = 0.0, opset: int = 18) -> onnx.ModelProto:
    """Return a model on (N, 3, 8, 8); constants such as `w6x3x3x3_a` are drawn in that shape.

    Every output channel of 4-dimensional weights is scaled by 10 to the power of a number within `spread`.
    """
    constants: dict[str, np.ndarray] = {"low": np.float32(0), "six": np.float32(6)}
    read = dict.fromkeys(name for one in nodes for name in one.input)
    for name in [name for name in read if name[0] in "wb" and name[1:2].isdigit()]:
        rng = np.random.default_rng(len(constants))
        shape = [int(extent) for extent in name[1:].partition("_")[0].split("x")]
        values = rng.normal(0, 1, shape) / np.sqrt(max(np.prod(shape[1:]), 1))
        if len(shape) == 4:
            values *= 10 ** rng.uniform(-spread, spread, (shape[0], 1, 1, 1))
        constants[name] = values.astype(np.float32)
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items() if name in read],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def conv(reads: str, gives: str, shape: str, **attributes: Any) -> onnx.NodeProto:
    return node("Conv", [reads, f"w{shape}_{gives}", f"b{shape.split('x')[0]}_{gives}"], [gives], gives, **attributes)


def relu(reads: str, gives: str, kind: str = "Relu") -> onnx.NodeProto:
    return node(kind, [reads], [gives], f"act_{gives}")


INVERTED = [
    conv("input", "widen", "8x3x1x1"),
    relu("widen", "r1"),
    conv("r1", "filter", "8x1x3x3", group=8, pads=[1] * 4),
    relu("filter", "r2"),
    conv("r2", "narrow", "6x8x1x1"),
    conv("narrow", "grouped", "4x3x3x3", group=2),
    relu("grouped", "r3", "LeakyRelu"),
    node("MaxPool", ["r3"], ["p"], "max", kernel_shape=[2, 2]),
    node("GlobalAveragePool", ["p"], ["g"], "mean"),
    node("Flatten", ["g"], ["f"], "flatten"),
    node("Gemm", ["f", "w5x4", "b5_one"], ["h"], "hidden", transB=1),
    relu("h", "r4"),
    node("MatMul", ["r4", "w5x2"], ["y"], "fc"),
]


def run(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    return open_model(model.SerializeToString()).run({"input": IMAGES})[0]


@pytest.mark.parametrize("opset", [13, 18])
def test_the_function_stays_the_same_for_every_kind_of_pair(opset: int) -> None:
    model = build(INVERTED, spread=2, opset=opset)
    names = [(pair.first.name, pair.second.name, pair.between) for pair in find_pairs(model)]
    assert names == [
        ("widen", "filter", "r1"),
        ("filter", "narrow", "r2"),
        ("narrow", "grouped", "narrow"),
        ("grouped", "hidden", "r3"),
        ("hidden", "fc", "r4"),
    ]
    before = run(model)
    weights = {tensor.name: tensor.raw_data for tensor in model.graph.initializer}
    assert equalise(model, over(ArraySamples({"input": IMAGES[:10]}), batch_size=3)) == 5
    changed = {tensor.name for tensor in model.graph.initializer if tensor.raw_data != weights[tensor.name]}
    assert changed == set(weights)
    np.testing.assert_allclose(run(model), before, rtol=1e-4, atol=1e-5 * np.abs(before).max())


def test_factors_make_the_two_ranges_alike() -> None:
    """Beside the naive form: after scaling, channel ranges and column ranges are proportional."""
    dense = {layer.name: layer for layer in find_layers(build(INVERTED))}["narrow"]
    rng = np.random.default_rng(1)
    largest = rng.uniform(0.2, 1, 8)
    found = factors(dense, largest)
    for channel in range(8):
        shares = [abs(row[channel]) / abs(row).max() for row in dense.weights[:, :, 0, 0]]
        wanted = np.sqrt(max(shares) / largest[channel])
        widest = int(largest.argmax())
        reference = max(abs(row[widest]) / abs(row).max() for row in dense.weights[:, :, 0, 0])
        relative = wanted / np.sqrt(reference / largest[widest])
        most = max(HEADROOM * largest[widest] / largest[channel], 1)
        assert found[channel] == pytest.approx(min(relative, most))
    assert (found * largest <= largest.max() * (1 + 1e-9)).all()


def test_channels_of_a_depthwise_layer_become_equally_wide() -> None:
    depthwise = {layer.name: layer for layer in find_layers(build(INVERTED))}["filter"]
    largest = np.array([1, 0.1, 0.001, 0, 0.9, 1e-9, 0.5, 0.25])
    found = factors(depthwise, largest)
    np.testing.assert_allclose((found * largest)[[0, 1, 2, 4, 6, 7]], [1, 0.8, 0.8, 0.9, 0.8, 0.8])
    assert found[3] == 1  # nothing comes through
    assert found[5] == 1e4
    assert (factors(depthwise, np.zeros(8)) == 1).all()


UNTOUCHED = {
    "ReLU6": [
        conv("input", "a", "8x3x1x1"),
        node("Clip", ["a", "low", "six"], ["r"], "clip"),
        conv("r", "y", "4x8x1x1"),
    ],
    "HardSwish": [conv("input", "a", "8x3x1x1"), relu("a", "r", "HardSwish"), conv("r", "y", "4x8x1x1")],
    "two readers": [
        conv("input", "a", "8x3x1x1"),
        relu("a", "r"),
        conv("r", "b", "8x8x1x1"),
        node("Add", ["b", "r"], ["y"], "add"),
    ],
    "many pixels flattened": [
        conv("input", "a", "1x3x1x1"),
        node("Flatten", ["a"], ["f"], "flatten"),
        node("MatMul", ["f", "w64x2"], ["y"], "fc"),
    ],
    "a product along the pixels": [conv("input", "a", "8x3x1x1"), node("MatMul", ["a", "w8x2"], ["y"], "fc")],
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_other_layers_are_left_alone(name: str) -> None:
    model = build(UNTOUCHED[name])
    before = model.SerializeToString()
    assert equalise(model, over(ArraySamples({"input": IMAGES}))) == 0
    assert model.SerializeToString() == before


def test_it_brings_back_channels_that_differ_by_orders_of_magnitude() -> None:
    """The second convolution makes good what the first one scaled: small channels matter as much as large ones."""
    nodes = [conv("input", "a", "16x3x3x3"), relu("a", "r"), conv("r", "b", "16x1x3x3", group=16), relu("b", "s")]
    nodes += [conv("s", "c", "8x16x1x1"), node("GlobalAveragePool", ["c"], ["y"], "mean")]
    model = build(nodes)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    spread = 10 ** np.random.default_rng(5).uniform(-2, 2, 16)
    for name, factor in (("w16x3x3x3_a", spread), ("b16_a", spread), ("w16x1x3x3_b", 1 / spread)):
        values = numpy_helper.to_array(tensors[name])
        scaled = values * factor.reshape(-1, *[1] * (values.ndim - 1))
        tensors[name].CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), name))

    def sqnr_db(equalisation: bool) -> float:
        method = Method(equalisation=equalisation)
        data = {"input": IMAGES}
        found = quantize(model.SerializeToString(), data, None, target="x86-avx2", method=method, evaluation=data)
        assert found.effective["equalisation"] is equalisation
        assert found.evaluation is not None
        assert found.evaluation.sqnr_db is not None
        return found.evaluation.sqnr_db

    assert sqnr_db(True) > sqnr_db(False) + 10


def test_channels_with_a_shared_bias_are_left_alone() -> None:
    assert [pair.first.name for pair in find_pairs(build(INVERTED[:3]))] == ["widen"]
    assert find_pairs(build([*INVERTED[:3], node("Add", ["b8_widen", "filter"], ["y"], "add")])) == []
