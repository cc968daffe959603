from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd.data import ArraySamples
from edgekd.quantization.correction import corrected_bias
from edgekd.quantization.layers import add_missing_biases, find_layers
from edgekd.quantization.moments import Moments, collect_moments, input_rows
from edgekd.quantization.weights import quantize_weights
from edgekd.runtime import open_model
from tests.quantization.calibrations import over

if TYPE_CHECKING:
    from collections.abc import Callable


def one_conv(weight: np.ndarray, **attributes: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "w"], ["y"], "conv", **attributes)],
        "g",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [None] * weight.ndim)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * weight.ndim)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((4, 3, 3, 3), (2, 3, 7, 6), {"pads": [1, 1, 1, 1]}),
    ((4, 3, 3, 2), (2, 3, 7, 6), {"pads": [0, 1, 2, 0], "strides": [2, 1]}),
    ((4, 3, 3, 3), (2, 3, 9, 9), {"dilations": [2, 2], "strides": [2, 2]}),
    ((6, 2, 3, 3), (2, 6, 5, 5), {"group": 3, "pads": [1, 1, 1, 1]}),
    ((6, 1, 3, 3), (2, 6, 5, 5), {"group": 6}),
    ((4, 3, 1, 1), (2, 3, 5, 5), {"strides": [2, 2]}),
    ((4, 3, 3, 3), (2, 3, 8, 7), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((4, 3, 4, 4), (2, 3, 8, 7), {"auto_pad": "SAME_LOWER"}),
    ((4, 3, 3, 3), (2, 3, 8, 7), {"auto_pad": "VALID"}),
    ((4, 3, 3), (2, 3, 9), {"pads": [1, 1]}),
    ((4, 3, 2, 3, 2), (1, 3, 4, 5, 4), {"pads": [1, 0, 1, 0, 1, 0]}),
]


@pytest.mark.parametrize(("shape", "size", "attributes"), CASES)
def test_rows_times_weights_is_the_convolution(
    shape: tuple[int, ...], size: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    model = one_conv(rng.normal(size=shape).astype(np.float32), **attributes)
    inputs = rng.normal(size=size).astype(np.float32)
    (layer,) = find_layers(model)
    rows = input_rows(layer, inputs, positions=10**6)
    found = np.einsum("grl,gol->rgo", rows, layer.rows).reshape(len(inputs), -1, shape[0])
    expected = open_model(model.SerializeToString()).run({"input": inputs})[0]
    np.testing.assert_allclose(found.transpose(0, 2, 1).ravel(), expected.ravel(), rtol=1e-4, atol=1e-4)


def test_a_matrix_product_in_both_orders() -> None:
    for operator, weight in (("MatMul", "w"), ("Gemm", "w")):
        graph = onnx.parser.parse_graph(
            f"g (float[N, 3] input) => (float[N, 4] y) {{ y = {operator}(input, {weight}) }}"
        )
        values = np.arange(12, dtype=np.float32).reshape(3, 4)
        graph.initializer.append(numpy_helper.from_array(values, "w"))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        (layer,) = find_layers(model)
        inputs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
        np.testing.assert_allclose(input_rows(layer, inputs)[0] @ layer.rows[0].T, inputs @ values, rtol=1e-5)


def test_positions_are_spaced_evenly_and_no_more_than_asked() -> None:
    model = one_conv(np.ones((1, 1, 1, 1), np.float32))
    (layer,) = find_layers(model)
    inputs = np.arange(100, dtype=np.float32).reshape(1, 1, 10, 10)
    assert input_rows(layer, inputs, positions=4).ravel().tolist() == [0, 25, 50, 75]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_moments_do_not_depend_on_the_batch_size(
    make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray, batch_size: int
) -> None:
    model = onnx.shape_inference.infer_shapes(make_conv_net())
    layers = find_layers(model)
    assert [layer.name for layer in layers] == ["conv1", "conv2", "fc"]
    samples = ArraySamples({"input": images})
    expected = collect_moments(model, layers, over(samples, batch_size=7))
    for name, found in collect_moments(model, layers, over(samples, batch_size=batch_size)).items():
        assert found.count == expected[name].count
        np.testing.assert_allclose(found.square, expected[name].square, rtol=1e-5)
        np.testing.assert_array_equal(found.power[0], np.diagonal(found.square[0]) / found.count)
        np.testing.assert_allclose(found.mean, expected[name].mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("axis", ["N", "4"])
def test_rows_of_a_product_whose_input_joins_samples_and_positions_are_all_seen(axis: str) -> None:
    """(N, 5, 3) becomes (5 N, 3) before the product, as some exporters write it."""
    graph = onnx.parser.parse_graph(
        f"g (float[{axis}, 5, 3] input) => (float[M, 4] y) {{ x = Reshape(input, shape) y = MatMul(x, w) }}"
    )
    graph.initializer.append(numpy_helper.from_array(np.array([-1, 3]), "shape"))
    graph.initializer.append(numpy_helper.from_array(np.ones((3, 4), np.float32), "w"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    inputs = np.random.default_rng(0).normal(size=(7, 5, 3)).astype(np.float32)
    layers = find_layers(model)
    (found,) = collect_moments(model, layers, over(ArraySamples({"input": inputs}), batch_size=2)).values()
    rows = inputs.reshape(-1, 3).astype(np.float64)
    assert found.count == 35
    np.testing.assert_allclose(found.square[0], rows.T @ rows, rtol=1e-5)


def test_a_corrected_bias_keeps_the_mean_output() -> None:
    rng = np.random.default_rng(0)
    model = one_conv(rng.normal(size=(4, 3, 3, 3)).astype(np.float32))
    assert add_missing_biases(model) == 1
    (layer,) = find_layers(model)
    rows = input_rows(layer, rng.normal(1, 1, (8, 3, 6, 6)).astype(np.float32))
    moments = Moments.empty(layer)
    moments.add(rows)
    coarse = quantize_weights(layer.weights * 1, layer.layout, "seven-bit", input_scale=0.1)
    bias = corrected_bias(layer, coarse, moments, 0.1)
    worth = layer.layout.view(coarse.values) * coarse.scales[:, None]
    exact = rows[0] @ layer.rows[0].T
    np.testing.assert_allclose((rows[0] @ worth.T + bias).mean(axis=0), exact.mean(axis=0), rtol=1e-4)


def test_a_correction_that_does_not_fit_its_steps_is_left_out() -> None:
    model = one_conv(np.full((1, 1, 1, 1), 0.6, np.float32))
    add_missing_biases(model)
    (layer,) = find_layers(model)
    moments = Moments.empty(layer)
    moments.add(np.full((1, 4, 1), 1e15, np.float32))
    quantized = quantize_weights(layer.weights, layer.layout, "full", input_scale=1e-9)
    quantized.values[:] -= 1
    np.testing.assert_array_equal(corrected_bias(layer, quantized, moments, 1e-9), layer.bias_values)
