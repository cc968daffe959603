from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import numpy_helper

from edgekd.errors import ModelError
from edgekd.graph.folding import fold
from edgekd.quantization.calibration import activations
from edgekd.quantization.exact import reduction_order
from edgekd.quantization.qdq import to_qdq
from edgekd.quantization.saturation import pair_excess, pairs_safe
from edgekd.quantization.weights import (
    floor_scales,
    least_squares_scales,
    pair_safe_scales,
    quantize_bias,
    quantize_weights,
    round_rows,
    row_scales,
)
from edgekd.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

quick = settings(max_examples=60, deadline=None)
TINY = float(np.finfo(np.float32).tiny)


@st.composite
def weight_rows(draw: st.DrawFn) -> np.ndarray:
    """Rows of weights of any size: bell-shaped, flat, few-valued, with zeros, denormals and large numbers."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 24)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["laplace", "uniform", "grid", "same sign"]))
    rows = {
        "laplace": rng.laplace(0, 1, shape),
        "uniform": rng.uniform(-1, 1, shape),
        "grid": rng.integers(-8, 9, shape) / 8,
        "same sign": rng.uniform(0.5, 1, shape),
    }[kind]
    rows[rng.random(shape) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
    size = draw(st.sampled_from([1.0, 1e-3, 1e30, 1e-30, 1e-37, 1e-44]))
    return (rows * size * 10 ** rng.uniform(-2, 2, (shape[0], 1))).astype(np.float32)


def quantized(rows: np.ndarray, rule: Any) -> tuple[np.ndarray, np.ndarray]:
    layout = reduction_order("Gemm", {"transB": 1}, rows.shape)
    found = quantize_weights(rows, layout, rule)
    return found.values, found.scales


def twos(row: Any) -> list[tuple[int, int]]:
    padded = [int(value) for value in row] + [0] * (len(row) % 2)
    return list(zip(padded[::2], padded[1::2], strict=True))


def sums(pair: tuple[int, int]) -> list[int]:
    """Return a pair's sum for the extreme activations, which bound it for all others."""
    return [pair[0] * a + pair[1] * b for a, b in itertools.product((0, 255), repeat=2)]


def is_pair_safe(values: np.ndarray) -> bool:
    return all(-32768 <= one <= 32767 for row in values for pair in twos(row) for one in sums(pair))


# --- kernel order ---------------------------------------------------------------------------------------------------

LAYOUTS = [
    ("Conv", {}, (4, 3, 2, 5)),
    ("Conv", {"group": 2}, (4, 3, 3)),
    ("QLinearConv", {}, (2, 3, 2, 2, 2)),
    ("Gemm", {"transB": 1}, (4, 7)),
    ("Gemm", {}, (7, 4)),
    ("MatMul", {}, (7, 4)),
    ("MatMul", {}, (2, 3, 7, 4)),
    ("DynamicQuantizeLSTM", {}, (2, 7, 8)),
]


@pytest.mark.parametrize(("op", "attributes", "shape"), LAYOUTS)
def test_the_view_goes_there_and_back(op: str, attributes: dict[str, int], shape: tuple[int, ...]) -> None:
    weights = np.arange(np.prod(shape)).reshape(shape)
    layout = reduction_order(op, attributes, shape)
    rows = layout.view(weights)
    assert rows.shape[1] == layout.length
    assert len(rows) % layout.channels == 0
    np.testing.assert_array_equal(layout.unview(rows), weights)
    for row in range(len(rows)):
        channel = np.argwhere(np.isin(weights, rows[row]))[:, layout.channel_axis]
        assert set(channel) == {row % layout.channels}


def test_a_convolution_is_read_position_by_position() -> None:
    weights = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    expected = [weights[1, c, h, w] for h in range(2) for w in range(2) for c in range(3)]
    assert reduction_order("Conv", {}, weights.shape).view(weights)[1].tolist() == expected


@pytest.mark.parametrize(
    ("shape", "group", "depthwise"),
    [((8, 1, 3, 3), 8, True), ((1, 1, 3, 3), 1, True), ((8, 1, 3, 3), 1, False), ((8, 1, 3, 3), 4, False)],
)
def test_depthwise_is_one_channel_in_and_out(shape: tuple[int, ...], group: int, depthwise: bool) -> None:
    assert reduction_order("Conv", {"group": group}, shape).depthwise == depthwise


@pytest.mark.parametrize(("op", "shape"), [("Relu", (3, 3)), ("Conv", (3, 3)), ("MatMul", (3,))])
def test_what_no_kernel_has_is_an_error(op: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=f"{op} with weights of shape"):
        reduction_order(op, {}, shape)


# --- pair-safe scales -----------------------------------------------------------------------------------------------


@quick
@given(weight_rows())
def test_pair_safe_weights_cannot_saturate(rows: np.ndarray) -> None:
    values, scales = quantized(rows, "pair-safe")
    assert is_pair_safe(values)
    assert np.isfinite(scales).all()
    assert (scales > 0).all()


@quick
@given(weight_rows())
def test_the_scale_is_the_smallest_float32_that_is_safe(rows: np.ndarray) -> None:
    _, scales = quantized(rows, "pair-safe")
    _, full = quantized(rows, "full")
    assert (scales >= full).all()
    for row, scale, least in zip(rows, scales, full, strict=True):
        if row.any() and scale > least:  # a row of zeros takes the scale of another
            below = np.nextafter(scale, np.float32(0))
            assert not is_pair_safe(round_rows(row[None], below[None]))


@quick
@given(weight_rows())
def test_the_error_is_bounded_by_half_a_step_and_no_step_is_above_seven_bits(rows: np.ndarray) -> None:
    values, scales = quantized(rows, "pair-safe")
    _, coarse = quantized(rows, "seven-bit")
    assert (scales <= coarse).all()
    error = np.abs(rows.astype(np.float64) - values * scales[:, None].astype(np.float64))
    assert (error <= 0.5 * (1 + 1e-4) * scales[:, None]).all()


@quick
@given(weight_rows(), st.sampled_from(["full", "seven-bit", "pair-safe"]))
def test_rules_keep_their_ranges(rows: np.ndarray, rule: str) -> None:
    values, _ = quantized(rows, rule)
    assert np.abs(values.astype(int)).max() <= (64 if rule == "seven-bit" else 127)
    assert rule == "full" or pairs_safe(values).all()


@quick
@given(weight_rows(), st.floats(1.0, 10.0))
def test_raising_a_safe_scale_keeps_it_safe(rows: np.ndarray, factor: float) -> None:
    _, scales = quantized(rows, "pair-safe")
    assert pairs_safe(round_rows(rows, scales * np.float32(factor))).all()


@quick
@given(weight_rows(), st.floats(0.05, 1.0))
def test_scales_that_clip_are_made_safe_too(rows: np.ndarray, factor: float) -> None:
    clipping = np.maximum(row_scales(rows, "full") * np.float32(factor), np.float32(TINY))
    scales = pair_safe_scales(rows, clipping)
    assert pairs_safe(round_rows(rows, scales)).all()
    raised = scales > clipping
    below = np.where(raised, np.nextafter(scales, np.float32(0)), scales)
    assert not pairs_safe(round_rows(rows, below))[raised].any()


def test_only_the_channels_that_need_it_change() -> None:
    rows = np.array([[1, 0.005, -1, 1], [1, 1, 0, 0]], np.float32)
    values, scales = quantized(rows, "pair-safe")
    assert values.tolist() == [[127, 1, -127, 127], [64, 64, 0, 0]]
    assert scales[0] == np.float32(1) / np.float32(127)
    assert 1 / 64.5 <= scales[1] < 1 / 64.49  # 64.5 rounds to the even 64


def test_pair_safe_beats_seven_bits_on_bell_shaped_weights() -> None:
    rows = np.random.default_rng(0).normal(0, 1, (64, 256)).astype(np.float32)
    errors = {}
    for rule in ("full", "pair-safe", "seven-bit"):
        values, scales = quantized(rows, rule)
        errors[rule] = float(((rows - values * scales[:, None]) ** 2).mean())
    assert errors["full"] <= errors["pair-safe"] < 0.5 * errors["seven-bit"]


def test_a_wider_channel_is_not_paired_across_rows() -> None:
    """Three weights: the last is alone, and may stand beside nothing of the next row."""
    rows = np.array([[0, 0, 1], [1, 0, 0]], np.float32)
    values, _ = quantized(rows, "pair-safe")
    assert np.abs(values).max() == 127


def test_depthwise_kernels_keep_eight_bits() -> None:
    weights = np.full((8, 1, 3, 3), 0.3, np.float32)
    for group, largest in ((8, 127), (1, 64)):
        layout = reduction_order("Conv", {"group": group}, weights.shape)
        assert quantize_weights(weights, layout, "pair-safe").values.max() == largest
    assert (
        quantize_weights(weights, reduction_order("Conv", {"group": 8}, (8, 1, 3, 3)), "seven-bit").values.max() == 64
    )


def test_stacked_matrices_share_their_scales() -> None:
    weights = np.random.default_rng(1).laplace(0, 1, (3, 10, 4)).astype(np.float32)
    weights[2] *= 5
    layout = reduction_order("MatMul", {}, weights.shape)
    found = quantize_weights(weights, layout, "pair-safe")
    assert found.values.shape == weights.shape
    assert found.scales.shape == (4,)
    assert pairs_safe(layout.view(found.values)).all()
    np.testing.assert_allclose(found.values * found.scales, weights, atol=found.scales.max() * 0.51)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_numbers_are_refused(bad: float) -> None:
    layout = reduction_order("MatMul", {}, (2, 2))
    with pytest.raises(ModelError, match="NaN or infinity"):
        quantize_weights(np.array([[1, bad], [0, 0]], np.float32), layout, "full")
    with pytest.raises(ModelError, match="NaN or infinity"):
        quantize_weights(np.ones((2, 2), np.float32), layout, "full", bias=np.array([bad, 0], np.float32))


# --- scales of least squared error ----------------------------------------------------------------------------------


def squared_error(row: np.ndarray, scale: float, importance: np.ndarray) -> float:
    step = np.float32(scale)
    total = 0.0
    for weight, strength in zip(row, importance, strict=True):
        whole = min(127, max(-127, int(np.rint(weight / step))))
        total += float(strength) * (float(weight) - whole * float(step)) ** 2
    return total


@settings(max_examples=25, deadline=None)
@given(weight_rows(), st.sampled_from(["full", "pair-safe"]), st.integers(0, 99))
def test_least_squares_scales_are_those_of_a_naive_search(rows: np.ndarray, rule: Any, seed: int) -> None:
    importance = np.random.default_rng(seed).exponential(1, rows.shape)
    scales = row_scales(rows, rule)
    found = least_squares_scales(rows, scales, importance, rule)
    for row, given_scale, scale, strength in zip(rows, scales, found, importance, strict=True):
        if not row.any():
            assert scale == 0
            continue
        damped = strength + 0.01 * strength.mean()
        lowest = np.maximum(np.abs(row).max() / np.float32(127) * np.float32(0.4), np.float32(TINY))
        if rule == "pair-safe":
            lowest = pair_safe_scales(row[None], lowest[None])[0]
        tried = [given_scale, *np.linspace(lowest, max(lowest, 1.1 * given_scale), 40)]
        chosen = squared_error(row, scale, damped)
        assert chosen <= squared_error(row, given_scale, damped)
        # the last digits of a scale decide which way a half rounds: nearly equal scales can differ
        assert chosen <= 1.1 * min(squared_error(row, one, damped) for one in tried)


def test_seven_bits_stay_seven_bits() -> None:
    rows = np.random.default_rng(0).laplace(0, 1, (20, 31)).astype(np.float32)
    layout = reduction_order("Gemm", {"transB": 1}, rows.shape)
    assert np.abs(quantize_weights(rows, layout, "seven-bit", ranges="mse").values).max() == 64


@quick
@given(weight_rows(), st.floats(1e-6, 10))
def test_no_pair_can_saturate_at_a_scale_of_least_squares(rows: np.ndarray, input_scale: float) -> None:
    layout = reduction_order("Gemm", {"transB": 1}, rows.shape)
    bias = np.full(len(rows), 1e3, np.float32)
    found = quantize_weights(rows, layout, "pair-safe", ranges="mse", bias=bias, input_scale=input_scale)
    assert is_pair_safe(found.values)
    assert (np.abs(bias / (input_scale * found.scales.astype(np.float64))) <= 2**30 * (1 + 1e-6)).all()


def test_a_large_weight_is_clipped_where_its_input_is_weak() -> None:
    rows = np.linspace(0.05, 1, 2000, dtype=np.float32)[None].repeat(2, axis=0)
    rows[:, 10] = 2
    importance = np.ones((2, 2000))
    importance[0, 10] = 0
    scales = least_squares_scales(rows, row_scales(rows, "full"), importance, "full")
    assert scales[0] < 0.6 * scales[1]
    assert round_rows(rows, scales)[0, 10] == 127


def test_importance_is_that_of_a_channels_own_group() -> None:
    weights = np.random.default_rng(0).laplace(0, 1, (6, 2, 3, 3)).astype(np.float32)
    layout = reduction_order("Conv", {"group": 3}, weights.shape)
    importance = np.random.default_rng(1).exponential(1, (3, 18)) ** 4
    together = quantize_weights(weights, layout, "pair-safe", ranges="mse", importance=importance)
    for group in range(3):
        part = slice(2 * group, 2 * group + 2)
        one = reduction_order("Conv", {}, (2, 2, 3, 3))
        alone = quantize_weights(
            weights[part], one, "pair-safe", ranges="mse", importance=importance[group : group + 1]
        )
        np.testing.assert_array_equal(alone.scales, together.scales[part])
        np.testing.assert_array_equal(alone.values, together.values[part])


def test_least_squares_beat_the_largest_weight_on_bell_shaped_weights() -> None:
    rows = np.random.default_rng(0).normal(0, 1, (64, 256)).astype(np.float32)
    layout = reduction_order("Gemm", {"transB": 1}, rows.shape)
    errors = {}
    for ranges in ("max", "mse"):
        found = quantize_weights(rows, layout, "pair-safe", ranges=ranges)
        errors[ranges] = float(((rows - found.values * found.scales[:, None]) ** 2).mean())
    assert errors["mse"] < 0.97 * errors["max"]


# --- scales and biases ----------------------------------------------------------------------------------------------


@quick
@given(
    weight_rows(),
    st.floats(1e-6, 10),
    arrays.arrays(np.float32, 6, elements=st.floats(-1e4, 1e4, width=32)),
)
def test_a_bias_never_overflows(rows: np.ndarray, input_scale: float, biases: np.ndarray) -> None:
    bias = biases[: len(rows)]
    layout = reduction_order("Gemm", {"transB": 1}, rows.shape)
    found = quantize_weights(rows, layout, "pair-safe", bias=bias, input_scale=input_scale)
    steps = input_scale * found.scales.astype(np.float64)
    assert (np.abs(bias / steps) <= 2**30 * (1 + 1e-6)).all()
    assert pairs_safe(found.values).all()
    whole = quantize_bias(bias, input_scale, found.scales)
    if (steps > TINY).all():
        np.testing.assert_allclose(whole * steps, bias, rtol=1e-6, atol=steps.max() * 0.51)


def test_a_channel_of_zeros_takes_the_smallest_scale_of_the_others() -> None:
    assert floor_scales(np.array([0, 0.25, 0.5], np.float32)).tolist() == [0.25, 0.25, 0.5]
    assert floor_scales(np.zeros(2, np.float32)).tolist() == [1, 1]
    raised = floor_scales(np.zeros(2, np.float32), np.array([0, 2.0**31], np.float32), 0.5)
    assert raised.tolist() == [1, 4]


def scale_of_input(model: onnx.ModelProto, layer: str) -> float:
    makers = {name: node for node in model.graph.node for name in node.output}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    node = next(node for node in model.graph.node if node.name == layer)
    return float(stored[makers[node.input[0]].input[1]].item())


def test_rules_agree_with_onnxruntimes_own_quantizer(make_conv_net: Callable[..., onnx.ModelProto]) -> None:
    """`full` is what it does for targets that accumulate in 32 bits, `seven-bit` its `reduce_range`."""
    model = fold(make_conv_net().SerializeToString(), "net")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    ranges = dict.fromkeys(activations(model), (-3.0, 5.0))
    for target, rule in (("arm64", "full"), ("x86-avx2", "seven-bit")):
        quantized_model = to_qdq(model, ranges, TARGETS[target])
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized_model.graph.initializer}
        for node in model.graph.node:
            if node.op_type in ("Conv", "Gemm"):
                weight, bias = node.input[1:3]
                layout = reduction_order(node.op_type, {"transB": 1}, weights[weight].shape)
                found = quantize_weights(weights[weight], layout, rule, bias=weights[bias], input_scale=8 / 255)
                np.testing.assert_allclose(found.scales, stored[weight + "_scale"], rtol=1e-6)
                np.testing.assert_array_equal(found.values, stored[weight + "_quantized"])
                input_scale = scale_of_input(quantized_model, node.name)
                whole = quantize_bias(weights[bias], input_scale, stored[weight + "_scale"])
                np.testing.assert_array_equal(whole, stored[bias + "_quantized"])


def test_the_excess_of_random_pairs_is_what_brute_force_finds() -> None:
    rows = np.random.default_rng(2).integers(-128, 128, (200, 7))
    found = pair_excess(rows)
    assert found.shape == (200, 4)
    for row, excess in zip(rows, found, strict=True):
        for pair, one in zip(twos(row), excess, strict=True):
            assert one == max(0, max(sums(pair)) - 32767, -32768 - min(sums(pair)))
