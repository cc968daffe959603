"""Biases are corrected by what a layer gives before its activation, whatever onnxruntime fuses and renames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgekd import quantize
from edgekd.quantization.static import Method
from edgekd.runtime import open_model

if TYPE_CHECKING:
    from collections.abc import Callable


def clipped_net() -> onnx.ModelProto:
    """Return two convolutions on (N, 3, 8, 8), each behind a ReLU6 that clips most of what it gets, and two outputs."""
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.normal(0, 3, (8, 3, 3, 3)),
        "b1": rng.normal(-3, 3, 8),
        "w2": rng.normal(0, 1, (6, 8, 3, 3)),
        "b2": rng.normal(0, 3, 6),
        "low": np.float32(0),
        "six": np.float32(6),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["c1"], "first", pads=[1] * 4),
        helper.make_node("Clip", ["c1", "low", "six"], ["r1"], "clip1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "second", pads=[1] * 4),
        helper.make_node("Clip", ["c2", "low", "six"], ["r2"], "clip2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["z"], "flatten"),
        helper.make_node("GlobalMaxPool", ["r2"], ["a"], "max"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [
            helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N", 6]),
            helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["N", 6, 1, 1]),
        ],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def constants_behind(model: onnx.ModelProto, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the dequantized weights and bias of a layer."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    node = next(node for node in model.graph.node if node.name == layer)
    (weights, steps, _), (bias, bias_steps, *_) = (
        [stored[name] for name in makers[given].input] for given in node.input[1:3]
    )
    return weights * steps.reshape(-1, 1, 1, 1), bias * bias_steps


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_the_mean_before_the_clip_is_kept(images: np.ndarray, rounding: Literal["nearest", "gptq"]) -> None:
    """Behind the clip most values are 0 or 6, and a bias that made up for their mean would be far off."""
    model = clipped_net()
    plain = Method(rounding=rounding, weight_ranges="max", bias_correction=False, equalisation=False)
    corrected = Method(rounding=rounding, weight_ranges="max", equalisation=False)
    errors = {}
    for method in (plain, corrected):
        content = quantize(
            model.SerializeToString(), {"input": images}, None, target="x86-avx2", method=method
        ).content
        file = onnx.load_from_string(content)
        for layer, given, expected in (("first", "input", "c1"), ("second", "r1", "c2")):
            watched = clipped_net()
            del watched.graph.output[:]
            watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in ("r1", "c1", "c2"))
            found = dict(
                zip(("r1", "c1", "c2"), ReferenceEvaluator(watched).run(None, {"input": images}), strict=True)
            )
            found["input"] = images
            weights, bias = constants_behind(file, layer)
            alone = onnx.parser.parse_model(
                '<ir_version: 10, opset_import: ["" : 18]> g (float[N, C, 8, 8] x, float[O, C, 3, 3] w, float[O] b) '
                "=> (float[N, O, 8, 8] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w, b) }"
            )
            feeds = {"x": found[given], "w": weights.astype(np.float32), "b": bias.astype(np.float32)}
            (outputs,) = ReferenceEvaluator(alone).run(None, feeds)
            difference = (outputs - found[expected]).mean(axis=(0, 2, 3))
            errors[method.bias_correction, layer] = float(np.abs(difference).max())
    for layer in ("first", "second"):
        assert errors[True, layer] < 3e-3  # a bias is stored in steps of its own, half of one is left
        assert errors[True, layer] < 0.2 * errors[False, layer]


@pytest.mark.parametrize("make", [clipped_net, None], ids=["two outputs", "one output"])
def test_a_file_gives_the_outputs_of_its_original_in_their_order(
    make: Callable[[], onnx.ModelProto] | None, images: np.ndarray, make_conv_net: Callable[..., onnx.ModelProto]
) -> None:
    """Layers are judged by what they do to the first output (`sensitivity.py`), so that has to be the same one."""
    original = open_model((make or make_conv_net)().SerializeToString())
    content = quantize((make or make_conv_net)().SerializeToString(), {"input": images}, None).content
    quantized = open_model(content)
    assert [spec.name for spec in quantized.outputs] == [spec.name for spec in original.outputs]
    for one, other in zip(quantized.run({"input": images}), original.run({"input": images}), strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).mean() < 0.02 * np.abs(other).max()
