"""The error by layer, against outputs that are really computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.quantization.layers import Layer, find_layers
from edgekd.quantization.moments import Moments
from edgekd.quantization.noise import weight_sqnr_db
from edgekd.quantization.weights import QuantizedWeights, quantize_weights


def layer() -> Layer:
    weights = np.random.default_rng(0).normal(0, 1, (12, 5)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(weights, "w")],
    )
    return find_layers(helper.make_model(graph))[0]


def test_it_is_the_ratio_of_outputs_that_are_computed() -> None:
    fc = layer()
    quantized = quantize_weights(fc.weights, fc.layout, "seven-bit")
    inputs = np.random.default_rng(1).normal(1, [[0.1 * (1 + column)] for column in range(12)], (12, 300)).T
    moments = Moments.empty(fc)
    moments.add(inputs[None].astype(np.float32))
    worth = quantized.values.astype(np.float64) * quantized.scales
    expected = inputs @ fc.weights
    error = expected - inputs @ worth
    found = weight_sqnr_db(fc, quantized, moments)
    assert found == pytest.approx(10 * np.log10(np.square(expected).sum() / np.square(error).sum()), abs=1e-3)


def test_without_moments_all_inputs_are_equally_strong() -> None:
    fc = layer()
    quantized = quantize_weights(fc.weights, fc.layout, "full")
    error = fc.weights - quantized.values * quantized.scales
    expected = 10 * np.log10(np.square(fc.weights).sum() / np.square(error).sum())
    assert weight_sqnr_db(fc, quantized, None) == pytest.approx(expected, abs=1e-3)


def test_exact_weights_leave_no_error() -> None:
    fc = replace(layer(), weights=np.zeros((12, 5), np.float32))
    quantized = QuantizedWeights(values=np.zeros((12, 5), np.int8), scales=np.ones(5, np.float32))
    assert weight_sqnr_db(fc, quantized, None) is None
