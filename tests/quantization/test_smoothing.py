from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekd import quantize
from edgekd.data import ArraySamples
from edgekd.graph.names import name_nodes
from edgekd.quantization.layers import find_layers
from edgekd.quantization.smoothing import STRENGTHS, Inputs, apply_scales, choose_scales, output_error, smooth
from edgekd.quantization.smoothing import smoothing_scales as scales_of
from edgekd.quantization.static import Method
from edgekd.runtime import open_model
from tests.quantization.calibrations import over

if TYPE_CHECKING:
    from collections.abc import Mapping

CHANNELS = 16
BIG = 3  # the channel that dwarfs the others


def block(*nodes: str) -> onnx.ModelProto:
    """Return LayerNormalization with one huge channel, and what follows it."""
    rng = np.random.default_rng(0)
    gain = rng.uniform(0.5, 1.5, CHANNELS)
    gain[BIG] = 60
    weights: Mapping[str, np.ndarray] = {
        "gain": gain,
        "shift": rng.normal(size=CHANNELS),
        "q": rng.normal(size=(CHANNELS, 8)),
        "k": rng.normal(size=(CHANNELS, 8)),
        "o": rng.normal(size=(8, CHANNELS)),
    }
    text = "\n".join(nodes)
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18]> g (float[N, 6, {CHANNELS}] x) => (float[N, 6, {CHANNELS}] y) {{
            h = LayerNormalization <axis = -1> (x, gain, shift)
            {text}
        }}"""
    )
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items())
    name_nodes(model)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


ALONE = ("a = MatMul(h, q)", "b = MatMul(h, k)", "c = Add(a, b)", "y = MatMul(c, o)")
RESIDUAL = ("a = MatMul(h, q)", "b = MatMul(h, k)", "c = Add(a, b)", "p = MatMul(c, o)", "y = Add(p, h)")


@pytest.fixture
def data() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(40, 6, CHANNELS)).astype(np.float32)}


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def outputs(model: onnx.ModelProto, data: dict[str, np.ndarray]) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    return open_model(model.SerializeToString()).run(data)[0]


@pytest.mark.parametrize(("nodes", "muls"), [(ALONE, 0), (RESIDUAL, 1)], ids=["folded", "residual"])
def test_smoothing_changes_nothing_in_fp32(nodes: tuple[str, ...], muls: int, data: dict[str, np.ndarray]) -> None:
    """It is folded where only MatMuls read the value, and one Mul serves all of them where others do too."""
    model = block(*nodes)
    before = outputs(model, data)
    strengths = smooth(model, over(ArraySamples(data), batch_size=7))
    assert strengths["h"] in STRENGTHS
    assert operators(model).count("Mul") == muls
    assert len({node.input[0] for node in model.graph.node if node.input[1:] in (["q"], ["k"])}) == 1
    np.testing.assert_allclose(outputs(model, data), before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


def test_a_product_with_a_constant_takes_the_scales(data: dict[str, np.ndarray]) -> None:
    model = block("g = Mul(gain, h)", *(line.replace("(h,", "(g,") for line in ALONE))
    before = outputs(model, data)
    layers = [layer for layer in find_layers(model) if layer.input == "g"]
    apply_scales(model, "g", layers, np.linspace(0.5, 9, CHANNELS, dtype=np.float32))
    assert operators(model).count("Mul") == 1
    np.testing.assert_allclose(outputs(model, data), before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


def test_what_is_even_is_left_alone(data: dict[str, np.ndarray]) -> None:
    model = block(*ALONE)
    gain = next(tensor for tensor in model.graph.initializer if tensor.name == "gain")
    gain.CopyFrom(numpy_helper.from_array(np.ones(CHANNELS, np.float32), "gain"))
    content = model.SerializeToString()
    assert smooth(model, over(ArraySamples(data))) == {}
    assert model.SerializeToString() == content


def test_scales_are_those_of_the_formula() -> None:
    seen = Inputs(low=np.array([-4, 0, 0, -1], np.float32), high=np.array([1, 2, 0, 1], np.float32))
    weights = np.array([[3, 1, 1, 0], [3, 1, 1, 0]], np.float32)
    naive = np.array([4**0.75 / 3**0.25, 2**0.75 / 1**0.25])
    naive /= np.sqrt(naive.prod())
    np.testing.assert_allclose(scales_of(seen, weights, 0.75), [*naive, 1, 1], rtol=1e-6)


def naive_error(x: np.ndarray, weights: np.ndarray, scales: np.ndarray) -> float:
    """Quantize value by value: asymmetric inputs in 255 steps, symmetric weights in 127 for each output."""
    smoothed = [[value / scale for value, scale in zip(row, scales, strict=True)] for row in x.tolist()]
    low, high = min(0.0, *map(min, smoothed)), max(0.0, *map(max, smoothed))
    step = (high - low) / 255
    zero = round(-low / step)
    inputs = [[(min(max(round(v / step) + zero, 0), 255) - zero) * step for v in row] for row in smoothed]
    total = 0.0
    for row in weights.tolist():
        scaled = [value * scale for value, scale in zip(row, scales, strict=True)]
        worth = max(map(abs, scaled)) / 127
        rounded = [round(value / worth) * worth for value in scaled]
        for exact, given in zip(x.tolist(), inputs, strict=True):
            found = sum(a * b for a, b in zip(given, rounded, strict=True))
            total += (found - sum(a * b for a, b in zip(exact, row, strict=True))) ** 2
    return total


def test_the_error_is_that_of_quantizing_value_by_value() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(20, 5)).astype(np.float32) * np.array([1, 30, 2, 1, 1], np.float32)
    weights = rng.normal(size=(3, 5)).astype(np.float32)
    seen = Inputs.empty(5)
    seen.add(x)
    seen.kept.append(x)
    for strength in (0.0, 0.5, 1.0):
        scales = scales_of(seen, weights, strength) if strength else np.ones(5, np.float32)
        assert output_error(seen, weights, scales) == pytest.approx(naive_error(x, weights, scales), rel=0.02)
    errors = {s: output_error(seen, weights, scales_of(seen, weights, s)) for s in STRENGTHS}
    assert choose_scales(seen, weights)[0] == min(errors, key=lambda s: errors[s])


def test_how_samples_are_batched_does_not_matter(data: dict[str, np.ndarray]) -> None:
    models = [block(*RESIDUAL) for _ in range(2)]
    for model, size in zip(models, (1, 16), strict=True):
        smooth(model, over(ArraySamples(data), batch_size=size))
    one, other = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer} for model in models
    )
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], rtol=1e-5)


def test_int8_is_nearer_to_fp32_and_keeps_a_row_apart_from_its_batch(data: dict[str, np.ndarray]) -> None:
    model = block(*RESIDUAL)
    expected = outputs(model, data)

    def error(*, smoothing: bool) -> float:
        method = Method(smoothing=smoothing)
        result = quantize(model.SerializeToString(), data, None, target="x86-avx2", method=method)
        assert result.saturation.to_json()["can_saturate"] == 0
        assert result.audit.quantized == {"MatMulIntegerToFloat": 3}
        opened = open_model(result.content)
        together = opened.run(data)[0]
        np.testing.assert_array_equal(opened.run({"x": data["x"][:1]})[0], together[:1])
        return float(np.square(together - expected).mean())

    assert error(smoothing=True) < error(smoothing=False) / 2
