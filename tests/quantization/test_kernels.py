"""What onnxruntime's INT8 kernels really do on x86 without VNNI: the facts that the certificate rests on, each measured.

A model is built around known integers and run as users run it, with every optimization; the answer is compared with
integer arithmetic in numpy, once exact and once as VPMADDUBSW does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import avx2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekd.quantization.exact import integer_layers, quantized_on_loading, reduction_order
from edgekd.quantization.saturation import certify, neighbours, pair_excess
from edgekd.quantization.weights import quantize_weights
from edgekd.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TARGET = TARGETS["x86-avx2"]
TYPES = {np.uint8: TensorProto.UINT8, np.int8: TensorProto.INT8, np.float32: TensorProto.FLOAT}
STEP = 2048.0  # of quantized outputs: a power of two, so that requantization is exact
node = helper.make_node


def build(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, Any],
    inputs: dict[str, np.ndarray],
    output: str = "out",
    output_type: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Return a model of these nodes; its inputs have the types and shapes of the arrays given for them."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, TYPES[a.dtype.type], a.shape) for name, a in inputs.items()],
        [helper.make_tensor_value_info(output, output_type, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def run(
    model: onnx.ModelProto, inputs: dict[str, np.ndarray], optimized: Path | None = None, *, fused: bool = True
) -> np.ndarray:
    """Return the model's output on a CPU that adds pairs in int16."""
    path = None if optimized is None else str(optimized)
    output: np.ndarray = avx2.run(model.SerializeToString(), inputs, fused=fused, optimized=path)
    return output


def quantize(name: str, output: str, zero: str = "zero", step: str = "step") -> onnx.NodeProto:
    return node("QuantizeLinear", [name, step, zero], [output])


def dequantize(name: str, output: str, zero: str = "zero", scale: str = "one") -> onnx.NodeProto:
    return node("DequantizeLinear", [name, scale, zero], [output])


CONSTANTS = {
    "one": np.float32(1),
    "step": np.float32(STEP),
    "xzero": np.uint8(0),
    "wzero": np.int8(0),
    "zero": np.uint8(0),
}
READ = [dequantize("x", "xf", "xzero"), dequantize("w", "wf", "wzero")]
WRITE = [quantize("y", "q"), dequantize("q", "out", scale="step")]


def qdq(op: str, weights: np.ndarray, x: np.ndarray, *, quantized: bool = True, **attributes: Any) -> onnx.ModelProto:
    """Return DequantizeLinear - op - QuantizeLinear - DequantizeLinear; inputs have scale 1, outputs `as_output`."""
    bias = attributes.pop("bias", None)
    inputs = ["xf", "wf"] + ([] if bias is None else ["bf"])
    more = {} if bias is None else {"b": bias.astype(np.int32), "bzero": np.int32(0)}
    more["zero"] = np.uint8(128)
    head = READ + ([] if bias is None else [dequantize("b", "bf", "bzero")])
    layer = node(op, inputs, ["y" if quantized else "out"], "layer", **attributes)
    return build([*head, layer, *(WRITE if quantized else [])], {**CONSTANTS, **more, "w": weights}, {"x": x})


def replace(model: onnx.ModelProto, **values: Any) -> None:
    """Set constants of a model."""
    for name, value in values.items():
        tensor = next(one for one in model.graph.initializer if one.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def exact_sums(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the sums of products of u8 `(m, length)` and s8 `(n, length)`, as `(m, n)`."""
    return x.astype(np.int64) @ rows.astype(np.int64).T


def kernel_sums(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the same with every pair of neighbouring products saturated to int16, as PMADDUBSW does."""
    products = np.einsum("mpi,npi->mnp", neighbours(x).astype(np.int64), neighbours(rows).astype(np.int64))
    return np.clip(products, -32768, 32767).sum(axis=-1)


def as_output(sums: np.ndarray) -> np.ndarray:
    """Return sums as the quantized output of `qdq` gives them."""
    return np.clip(np.rint(sums / STEP), -128, 127) * STEP


def strong_rows(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Return weights whose pairs have one sign each and saturate often, while their sums stay small."""
    signs = rng.choice([-1, 1], (rows, (length + 1) // 2)).repeat(2, axis=1)[:, :length]
    return (rng.integers(50, 128, (rows, length)) * signs).astype(np.int8)


def extreme(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return activations of 0, 255 and little between, where pairs saturate most."""
    return rng.choice(np.array([0, 255, 255, 200], np.uint8), shape)


def can_saturate(model: onnx.ModelProto) -> bool:
    return certify(model, TARGET).to_json()["can_saturate"] > 0


def all_pairs() -> np.ndarray:
    """Return every pair of int8 weights: (65536, 2)."""
    every = np.arange(-128, 128, dtype=np.int8)
    return np.stack(np.meshgrid(every, every, indexing="ij"), axis=-1).reshape(-1, 2)


# --- which pairs saturate -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows_at_a_time", [1, 4])
def test_a_pair_saturates_if_and_only_if_the_rule_says_so(rows_at_a_time: int) -> None:
    weights = all_pairs()
    x = np.array([[0, 0], [255, 0], [0, 255], [255, 255]], np.uint8)
    exact = exact_sums(x, weights)
    found = np.concatenate(
        [
            run(qdq("MatMul", weights.T.copy(), part, quantized=False), {"x": part})
            for part in np.split(x, 4 // rows_at_a_time)
        ]
    )
    np.testing.assert_array_equal(found, np.clip(exact, -32768, 32767))
    np.testing.assert_array_equal((found != exact).any(axis=0), pair_excess(weights)[:, 0] > 0)
    np.testing.assert_array_equal(np.abs(found - exact).max(axis=0), pair_excess(weights)[:, 0])


@pytest.mark.parametrize("channels", [2, 3, 4, 8])
def test_a_convolution_saturates_by_the_same_rule(channels: int) -> None:
    """Four input channels take another kernel than two. The bias takes off the exact sum: what is left is lost."""
    weights = np.zeros((65536, channels, 1, 1), np.int8)
    weights[:, :2, 0, 0] = all_pairs()
    x = np.full((1, channels, 1, 1), 255, np.uint8)
    model = qdq("Conv", weights, x, bias=-exact_sums(x.reshape(1, -1), weights[..., 0, 0])[0])
    replace(model, step=np.float32(1))
    saturated = run(model, {"x": x}).reshape(-1) != 0
    np.testing.assert_array_equal(saturated, pair_excess(all_pairs())[:, 0] > 0)


# --- which weights are a pair ---------------------------------------------------------------------------------------


def patches(x: np.ndarray, kernel: tuple[int, ...], attributes: dict[str, Any]) -> np.ndarray:
    """Return what each output position of a 2-D convolution sees: (batch * height * width, channels, *kernel)."""
    (top, left, bottom, right), strides = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
    dilations = attributes.get("dilations", [1, 1])
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    spans = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    starts = [
        range(0, extent - span + 1, stride)
        for extent, span, stride in zip(padded.shape[2:], spans, strides, strict=True)
    ]
    windows = [
        padded[:, :, i : i + spans[0] : dilations[0], j : j + spans[1] : dilations[1]]
        for i in starts[0]
        for j in starts[1]
    ]
    return np.stack(windows, axis=1).reshape(-1, x.shape[1], *kernel)


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "attributes"),
    [
        pytest.param(3, 8, (3, 3), {}, id="stem: pairs cross kernel positions"),
        pytest.param(3, 7, (3, 3), {}, id="odd number of outputs"),
        pytest.param(3, 16, (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, id="strided and padded"),
        pytest.param(1, 8, (3, 3), {}, id="one-channel stem"),
        pytest.param(5, 8, (2, 3), {}, id="odd channels"),
        pytest.param(7, 8, (1, 1), {}, id="1x1, odd"),
        pytest.param(8, 16, (1, 1), {}, id="1x1"),
        pytest.param(8, 16, (1, 1), {"strides": [2, 2]}, id="1x1, strided"),
        pytest.param(4, 16, (3, 3), {}, id="kernel without im2col"),
        pytest.param(8, 24, (3, 3), {"dilations": [2, 2], "pads": [2, 1, 2, 1]}, id="dilated"),
        pytest.param(6, 8, (3, 3), {"group": 2}, id="grouped"),
        pytest.param(16, 32, (3, 3), {"group": 4}, id="grouped, of four"),
        pytest.param(4, 8, (3, 3), {"group": 4}, id="depthwise with multiplier 2"),
    ],
)
def test_convolutions_pair_weights_in_kernel_order(
    inputs: int, outputs: int, kernel: tuple[int, int], attributes: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    groups = attributes.get("group", 1)
    layout = reduction_order("Conv", attributes, (outputs, inputs // groups, *kernel))
    weights = layout.unview(strong_rows(rng, outputs, layout.length))
    x = extreme(rng, 2, inputs, 5, 6)
    model = qdq("Conv", weights, x, **attributes)
    seen = patches(x, kernel, attributes).reshape(-1, groups, inputs // groups, *kernel)
    found = np.moveaxis(run(model, {"x": x}), 1, -1).reshape(len(seen), groups, -1)
    one = reduction_order("Conv", {}, seen[:, 0].shape)
    for group, rows in enumerate(np.split(layout.view(weights), groups)):
        block = one.view(seen[:, group])
        np.testing.assert_array_equal(found[:, group], as_output(kernel_sums(block, rows)))
        assert (as_output(kernel_sums(block, rows)) != as_output(exact_sums(block, rows))).any()
    assert can_saturate(model)


@pytest.mark.parametrize("dimensions", [1, 3])
def test_convolutions_of_other_ranks_do_too(dimensions: int) -> None:
    rng = np.random.default_rng(1)
    layout = reduction_order("Conv", {}, (6, 3, *[3] * dimensions))
    weights = layout.unview(strong_rows(rng, 6, layout.length))
    x = extreme(rng, 1, *weights.shape[1:])
    seen = reduction_order("Conv", {}, x.shape).view(x)
    found = run(qdq("Conv", weights, x), {"x": x}).reshape(1, -1)
    np.testing.assert_array_equal(found, as_output(kernel_sums(seen, layout.view(weights))))
    assert (found != as_output(exact_sums(seen, layout.view(weights)))).any()


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize(
    ("op", "rows", "length", "attributes"),
    [
        *[("MatMul", 1, length, {}) for length in range(1, 10)],
        ("MatMul", 5, 9, {}),
        ("MatMul", 3, 1030, {}),
        ("MatMul", 1, 1030, {}),
        ("Gemm", 5, 9, {}),
        ("Gemm", 1, 33, {"transB": 1}),
        ("Gemm", 4, 33, {"transB": 1, "transA": 1}),
    ],
)
def test_matrices_pair_rows_of_the_reduction(
    op: str, rows: int, length: int, attributes: dict[str, Any], quantized: bool
) -> None:
    rng = np.random.default_rng(2)
    weights = strong_rows(rng, 37, length).T.copy()
    x = extreme(rng, rows, length)
    stored = weights.T.copy() if attributes.get("transB") else weights
    given = x.T.copy() if attributes.get("transA") else x
    layout = reduction_order(op, attributes, stored.shape)
    model = qdq(op, stored, given, quantized=quantized, **attributes)
    expected = kernel_sums(x, layout.view(stored))
    found = run(model, {"x": given})
    np.testing.assert_array_equal(found, as_output(expected) if quantized else expected)
    assert can_saturate(model) == (pair_excess(layout.view(stored)) > 0).any()


def test_stacked_matrices_and_vectors() -> None:
    rng = np.random.default_rng(3)
    x = np.full((2, 3, 9), 255, np.uint8)
    stack = rng.integers(0, 128, (2, 9, 5)).astype(np.int8)
    layout = reduction_order("MatMul", {}, stack.shape)
    assert layout.channels == 5
    per_matrix = layout.view(stack).reshape(2, 5, 9)
    expected = np.stack([kernel_sums(a, b) for a, b in zip(x, per_matrix, strict=True)])
    np.testing.assert_array_equal(run(qdq("MatMul", stack, x, quantized=False), {"x": x}), expected)
    vector = qdq("MatMul", stack[0, :, 0].copy(), x, quantized=False)
    np.testing.assert_array_equal(run(vector, {"x": x}), expected[:, :, 0][:1].repeat(2, axis=0))
    assert can_saturate(vector)


# --- which layers are exempt ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [127, -128])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize(
    ("groups", "multiplier"),
    [(1, 1), (2, 1), (3, 1), (8, 1), (16, 1), (17, 1), (32, 1), (1, 2), (1, 16), (4, 2), (16, 2)],
)
def test_only_true_depthwise_kernels_are_exempt(groups: int, multiplier: int, kernel: int, value: int) -> None:
    weights = np.full((groups * multiplier, 1, kernel, kernel), value, np.int8)
    x = np.full((1, groups, kernel, kernel), 255, np.uint8)
    model = qdq("Conv", weights, x, group=groups)
    total = abs(value) * 255 * kernel**2
    replace(model, step=np.float32(total / 255), zero=np.uint8(0 if value > 0 else 255))
    found = run(model, {"x": x})
    is_exact = np.allclose(np.abs(found), total, rtol=0.01)
    assert is_exact == (multiplier == 1 or kernel == 1)
    assert can_saturate(model) == (not is_exact)


def pair_weights(dtype: type = np.int8) -> np.ndarray:
    """Return 8 rows of 9 weights with one pair of 127: with activations of 255 the exact sum is 64770."""
    weights = np.zeros((8, 9), dtype)
    weights[:, :2] = 127
    return weights


OPERATORS = ["QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger"]


def operator(op: str, activations: type, weights: type, rows: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a model of one integer operator whose zero points make the largest activation worth 255."""
    convolves = op in ("QLinearConv", "ConvInteger")
    w = pair_weights(weights).reshape(8, 1, 3, 3) if convolves else pair_weights(weights).T.copy()
    lowest, largest = np.iinfo(activations).min, np.iinfo(activations).max
    x = np.full((rows, 1, 3, 3) if convolves else (rows, 9), largest, activations)
    constants = {"one": np.float32(1), "step": np.float32(STEP), "xz": activations(lowest), "w": w, "wz": weights(0)}
    names = {
        "QLinearConv": ["x", "one", "xz", "w", "one", "wz", "step", "xz"],
        "QLinearMatMul": ["x", "one", "xz", "w", "one", "wz", "step", "xz"],
        "QGemm": ["x", "one", "xz", "w", "one", "wz", "", "step", "xz"],
        "MatMulInteger": ["x", "w", "xz", "wz"],
        "ConvInteger": ["x", "w", "xz"],
        "MatMulIntegerToFloat": ["x", "w", "one", "one", "xz", "wz"],
    }[op]
    kind = {"MatMulInteger": TensorProto.INT32, "ConvInteger": TensorProto.INT32}.get(op, TYPES[activations])
    kind = TensorProto.FLOAT if op == "MatMulIntegerToFloat" else kind
    domain = "com.microsoft" if op in ("QGemm", "MatMulIntegerToFloat") else ""
    layer = node(op, names, ["out"], "layer", domain=domain)
    return build([layer], constants, {"x": x}, output_type=kind), {"x": x}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    ("op", "activations", "weights"),
    [
        (op, activations, weights)
        for op in OPERATORS
        for activations, weights in ((np.uint8, np.int8), (np.int8, np.int8), (np.uint8, np.uint8))
        if (op, activations) != ("ConvInteger", np.int8)  # onnxruntime has no such kernel
    ],
)
def test_integer_operators(op: str, activations: type, weights: type, rows: int) -> None:
    model, inputs = operator(op, activations, weights, rows)
    found = run(model, inputs).astype(np.float64)
    if op.startswith("Q"):
        found = (found - np.iinfo(activations).min) * STEP
    saturated = bool((found < 40000).all())
    assert saturated or np.allclose(found, 64770, atol=STEP)
    assert saturated == (activations is np.uint8 and weights is np.int8 and op != "ConvInteger")
    assert can_saturate(model) == saturated


@pytest.mark.parametrize("weights", [np.int8, np.uint8])
def test_dynamically_quantized_operators(weights: type) -> None:
    w = pair_weights(weights).T.copy()
    x = np.zeros((2, 9), np.float32)
    x[:, :2] = 1
    constants = {"w": w, "one": np.float32(1), "wz": weights(0)}
    layer = node("DynamicQuantizeMatMul", ["x", "w", "one", "wz"], ["out"], domain="com.microsoft")
    model = build([layer], constants, {"x": x})
    saturated = run(model, {"x": x}).max() < 150
    assert saturated == (weights is np.int8) == can_saturate(model)
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        node("MatMulInteger", ["xq", "w", "xz", "wz"], ["sums"]),
        node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        node("Mul", ["floats", "xs"], ["out"]),
    ]
    model = build(nodes, constants, {"x": x})
    assert (run(model, {"x": x}).max() < 150) == saturated == can_saturate(model)


@pytest.mark.parametrize("weights", [np.int8, np.uint8])
def test_attention_and_lstm(weights: type) -> None:
    w = np.zeros((9, 24), weights)
    w[:2] = 127
    x = np.full((1, 3, 9), 255, np.uint8)
    constants = {"w": w, "b": np.zeros(24, np.float32), "one": np.float32(1), "xz": np.uint8(0), "wz": weights(0)}
    names = ["x", "w", "b", "one", "one", "", "xz", "wz"]
    model = build([node("QAttention", names, ["out"], domain="com.microsoft", num_heads=2)], constants, {"x": x})
    saturated = run(model, {"x": x}).max() < 40000
    assert saturated == (weights is np.int8) == can_saturate(model)

    w, r = np.zeros((1, 9, 8), weights), np.zeros((1, 2, 8), weights)
    w[:, :2] = 127
    x = np.zeros((1, 1, 9), np.float32)
    x[..., :2] = 1
    scale, zero = np.full(1, 0.01, np.float32), np.zeros(1, weights)
    constants = {"w": w, "r": r, "b": np.zeros((1, 16), np.float32), "s": scale, "z": zero}
    names = ["x", "w", "r", "b", "", "", "", "", "s", "z", "s", "z"]
    layer = node("DynamicQuantizeLSTM", names, ["out"], domain="com.microsoft", hidden_size=2)
    model = build([layer], constants, {"x": x})
    gate = 1 / (1 + np.exp(-2.54))
    saturated = abs(float(run(model, {"x": x}).max()) - gate * np.tanh(gate * np.tanh(2.54))) > 0.1
    assert saturated == (weights is np.int8) == can_saturate(model)


def test_zero_points_change_nothing() -> None:
    x = np.full((2, 9), 255, np.uint8)
    for op, weights, stored in (
        ("MatMul", pair_weights().T.copy(), x),
        ("Conv", pair_weights().reshape(8, 1, 3, 3), x),
    ):
        data = stored if op == "MatMul" else stored.reshape(2, 1, 3, 3)
        model = qdq(op, weights, data)
        replace(model, wzero=np.int8(3), xzero=np.uint8(7))
        sums = exact_sums(x.astype(np.int64) - 7, pair_weights().astype(np.int64) - 3)
        lost = exact_sums(x, pair_weights()) - kernel_sums(x, pair_weights())
        np.testing.assert_allclose(run(model, {"x": data}).reshape(2, 8), as_output(sums - lost))
        assert can_saturate(model)


# --- which nodes become integer layers ------------------------------------------------------------------------------

TAILS: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "Relu": ([node("Relu", ["y"], ["r"])], {}),
    "Relu that Q keeps": ([node("Relu", ["y"], ["r"])], {"zero": np.uint8(10)}),
    "Clip": ([node("Clip", ["y", "low", "high"], ["r"])], {"low": np.float32(0), "high": np.float32(1e6)}),
    "Clip that Q keeps": (
        [node("Clip", ["y", "low", "high"], ["r"])],
        {"low": np.float32(0), "high": np.float32(4e4)},
    ),
    "Reshape": ([node("Reshape", ["y", "to"], ["r"])], {"to": np.array([1, 8])}),
    "Relu, Reshape": ([node("Relu", ["y"], ["a"]), node("Reshape", ["a", "to"], ["r"])], {"to": np.array([1, 8])}),
    "Transpose": ([node("Transpose", ["y"], ["r"])], {}),
    "MaxPool": ([node("MaxPool", ["y"], ["r"], kernel_shape=[1, 1])], {}),
    "Squeeze": ([node("Squeeze", ["y"], ["r"])], {}),
    "Unsqueeze": ([node("Unsqueeze", ["y", "axis"], ["r"])], {"axis": np.array([0])}),
    "Slice": ([node("Slice", ["y", "from", "to"], ["r"])], {"from": np.array([0]), "to": np.array([1])}),
    "Identity": ([node("Identity", ["y"], ["r"])], {}),
    "Dropout": ([node("Dropout", ["y"], ["r"])], {}),
    "Flatten": ([node("Flatten", ["y"], ["r"])], {}),
    "Concat": ([node("Concat", ["y", "y"], ["r"], axis=1)], {}),
    "GlobalAveragePool": ([node("GlobalAveragePool", ["y"], ["r"])], {}),
    "Sigmoid": ([node("Sigmoid", ["y"], ["r"])], {}),
    "Add": ([node("Add", ["y", "one"], ["r"])], {}),
    "Sum of one": ([node("Sum", ["y"], ["r"])], {}),
}


def measured(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> bool:
    """Return whether the optimized run loses what the unoptimized one keeps."""
    return bool(np.abs(run(model, inputs) - run(model, inputs, fused=False)).max() > 10000)


@pytest.mark.parametrize("tail", TAILS)
def test_a_convolution_is_fused_where_its_output_is_quantized(tail: str) -> None:
    nodes, constants = TAILS[tail]
    x = np.full((1, 1, 3, 3), 255, np.uint8)
    weights = {"w": pair_weights().reshape(8, 1, 3, 3)}
    conv = node("Conv", ["xf", "wf"], ["y"], "layer")
    write = [quantize("r", "q"), dequantize("q", "out", scale="step")]
    model = build([*READ, conv, *nodes, *write], {**CONSTANTS, **weights, **constants}, {"x": x})
    assert can_saturate(model) == measured(model, {"x": x})


@pytest.mark.parametrize("reader", ["nothing", "the same step", "another step", "the output"])
def test_a_convolution_that_more_than_one_reads_stays_fp32(reader: str) -> None:
    x = np.full((1, 1, 3, 3), 255, np.uint8)
    constants = {**CONSTANTS, "two": np.float32(300), "w": pair_weights().reshape(8, 1, 3, 3)}
    step = {"the same step": "step", "another step": "two"}.get(reader)
    more = [] if step is None else [quantize("y", "q2", step=step), dequantize("q2", "r", scale=step)]
    model = build([*READ, node("Conv", ["xf", "wf"], ["y"]), *WRITE, *more], constants, {"x": x})
    if reader != "nothing":
        name = "r" if more else "y"
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    fused = reader in ("nothing", "the same step")
    assert can_saturate(model) == measured(model, {"x": x}) == fused


def test_a_matrix_may_reach_its_integers_by_detours() -> None:
    x = np.full((2, 9), 255, np.uint8)
    product = node("MatMul", ["a", "b"], ["out"], "layer")
    rows, columns = pair_weights(), pair_weights().T.copy()
    cases: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
        "transposed": ([node("Identity", ["xf"], ["a"]), node("Transpose", ["wf"], ["b"], perm=[1, 0])], {"w": rows}),
        "reshaped input": (
            [node("Reshape", ["xf", "to"], ["a"]), node("Identity", ["wf"], ["b"])],
            {"w": columns, "to": np.array([1, 2, 9])},
        ),
        "fp32 before": ([node("Relu", ["xf"], ["a"]), node("Identity", ["wf"], ["b"])], {"w": columns}),
    }
    for name, (nodes, constants) in cases.items():
        model = build([*READ, *nodes, product], {**CONSTANTS, **constants}, {"x": x})
        assert can_saturate(model) == measured(model, {"x": x}) == (name != "fp32 before"), name
    head = [READ[0], node("QuantizeLinear", ["w", "one", "wzero"], ["wq"]), dequantize("wq", "wf", "wzero")]
    model = build(
        [*head, node("MatMul", ["xf", "wf"], ["out"])], {**CONSTANTS, "w": columns.astype(np.float32)}, {"x": x}
    )
    assert can_saturate(model)
    assert measured(model, {"x": x})


def test_weights_computed_at_run_time_are_named_where_they_are_int8() -> None:
    x, v = np.full((2, 9), 255, np.uint8), np.full((9, 8), 127, np.int8)
    product = node("MatMul", ["xf", "wf"], ["out"])
    model = build([*READ, product], CONSTANTS, {"x": x, "w": v})
    assert measured(model, {"x": x, "w": v})
    assert certify(model, TARGET).layers[0].pairs is None
    both = [READ[0], dequantize("w", "wf"), product]
    model = build(both, CONSTANTS, {"x": x, "w": v.astype(np.uint8)})
    assert not measured(model, {"x": x, "w": v.astype(np.uint8)})
    assert not can_saturate(model)


@pytest.mark.parametrize("op", ["Conv", "MatMul", "Gemm", "MatMul of two inputs"])
@pytest.mark.parametrize("source", ["QuantizeLinear", "input"])
def test_int8_activations_become_uint8_behind_a_quantizer(op: str, source: str) -> None:
    weights = pair_weights().reshape(8, 1, 3, 3) if op == "Conv" else pair_weights().T.copy()
    x = np.full((1, 1, 3, 3) if op == "Conv" else (2, 9), 255, np.float32)
    constants = {**CONSTANTS, "zero": np.int8(-128), "xzero": np.int8(-128), "w": weights}
    head = [quantize("x", "xq", step="one"), dequantize("xq", "xf"), READ[1]]
    inputs = {"x": x}
    if op == "MatMul of two inputs":
        del constants["w"]
        head = [*head[:2], quantize("w", "wq", step="one"), dequantize("wq", "wf")]
        inputs["w"] = np.full((9, 8), 255, np.float32)
    if source == "input":
        head = READ
        inputs = {"x": np.full_like(x, 127, dtype=np.int8)}
        if op == "MatMul of two inputs":
            inputs["w"] = np.full((9, 8), 127, np.int8)
    model = build([*head, node(op.split()[0], ["xf", "wf"], ["y"]), *WRITE], constants, inputs)
    expected = source == "QuantizeLinear" and op != "MatMul of two inputs"
    assert measured(model, inputs) == expected == can_saturate(model)


# --- what onnxruntime does on its own -------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
@pytest.mark.parametrize("guarded", [False, True])
def test_fp32_weights_between_dequantize_and_quantize_are_quantized_on_loading(
    op: str, guarded: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    weights = rng.normal(0.3, 1, (8, 3, 3, 3) if op == "Conv" else (27, 8)).astype(np.float32)
    x = np.full((1, 3, 3, 3) if op == "Conv" else (1, 27), 255, np.uint8)
    head = [READ[0], *([node("Sum", ["xf"], ["xs"])] if guarded else [])]
    layer = node(op, ["xs" if guarded else "xf", "w"], ["y"], "layer")
    model = build([*head, layer, *WRITE], {**CONSTANTS, "w": weights}, {"x": x})
    run(model, {"x": x}, tmp_path / "optimized.onnx")
    optimized = onnx.load(tmp_path / "optimized.onnx").graph.initializer
    integers = [numpy_helper.to_array(t) for t in optimized if t.name.endswith("_weight_q")]
    layers = integer_layers(model)
    assert len(integers) == len(layers) == (op != "MatMul" and not guarded)
    if integers:
        np.testing.assert_array_equal(integers[0], quantized_on_loading(weights))
        assert layers[0].source == "runtime"
        assert can_saturate(model)


def test_a_bias_near_the_largest_int32_wraps_around() -> None:
    x = np.full((1, 9), 255, np.uint8)
    for bias, good in ((2**31 - 1, False), (2**30, True)):
        model = qdq("Gemm", np.ones((9, 4), np.int8), x, bias=np.full(4, bias))
        replace(model, step=np.float32(2**25))
        assert np.allclose(run(model, {"x": x}), bias, rtol=0.05) == good


# --- and the repair holds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "exact"), [("full", False), ("pair-safe", True), ("seven-bit", True)])
@pytest.mark.parametrize(
    ("op", "shape", "attributes"),
    [
        ("Conv", (16, 3, 3, 3), {}),
        ("Conv", (16, 8, 3, 3), {}),
        ("Conv", (16, 5, 1, 1), {}),
        ("Conv", (8, 3, 3, 3), {"group": 2}),
        ("Gemm", (24, 65), {"transB": 1}),
        ("MatMul", (65, 24), {}),
    ],
)
def test_repaired_weights_run_exactly(
    op: str, shape: tuple[int, ...], attributes: dict[str, Any], rule: Any, exact: bool
) -> None:
    rng = np.random.default_rng(5)
    layout = reduction_order(op, attributes, shape)
    weights = rng.laplace(0, 1, shape).astype(np.float32)
    values = quantize_weights(weights, layout, rule).values
    rows = layout.view(values)
    worst = 255 * (neighbours(rows) > 0).reshape(len(rows), -1)[:, : layout.length].astype(np.uint8)
    if op == "Conv":
        per_group = np.zeros((len(rows), attributes.get("group", 1), *shape[1:]), np.uint8)
        per_group[:] = reduction_order("Conv", {}, (len(rows), *shape[1:])).unview(worst)[:, None]
        x = per_group.reshape(len(rows), -1, *shape[2:])
    else:
        x = worst
    model = qdq(op, values, x, **attributes)
    replace(model, step=np.float32(2**13))
    sums = exact_sums(worst, rows)
    found = run(model, {"x": x}).reshape(len(x), -1)
    assert np.array_equal(found, np.clip(np.rint(sums / 2**13), -128, 127) * 2**13) == exact
    assert can_saturate(model) == (not exact)


# --- random layers --------------------------------------------------------------------------------------------------


@st.composite
def small_layers(draw: st.DrawFn) -> tuple[str, np.ndarray, dict[str, Any]]:
    """Return an operator, integer weights and attributes: of convolutions in groups, stems and odd matrices."""
    groups, inputs, multiplier = draw(
        st.sampled_from(
            [(1, 3, 4), (1, 1, 6), (1, 7, 3), (2, 3, 4), (4, 1, 2), (5, 1, 1), (8, 1, 1), (3, 4, 2), (0, 0, 0)]
        )
    )
    extents = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    shape = (groups * multiplier, inputs, *extents)
    if not groups:
        shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 6)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    largest = draw(st.sampled_from([64, 65, 80, 128]))
    weights = rng.integers(-largest, min(largest, 127) + 1, shape).astype(np.int8)
    return ("Conv" if groups else "MatMul"), weights, ({"group": groups} if groups else {})


def naive_rows(op: str, weights: np.ndarray) -> list[list[int]]:
    """Return the weights of each output channel as the kernel lines them up, spelt out."""
    if op == "MatMul":
        return [[int(value) for value in weights[:, column]] for column in range(weights.shape[1])]
    _, inputs, height, width = weights.shape
    return [
        [int(kernel[c, i, j]) for i in range(height) for j in range(width) for c in range(inputs)]
        for kernel in weights
    ]


def naive_loss(row: list[int], place: int, sign: int) -> int:
    """Return what int16 takes off the sum of the pair at `place` where all weights of a sign meet 255."""
    total = sum(255 * weight for weight in row[place : place + 2] if weight * sign > 0)
    return abs(total - min(32767, max(-32768, total)))


@settings(max_examples=40, deadline=None)
@given(small_layers())
def test_the_certificate_names_a_random_layer_if_and_only_if_its_kernel_saturates(
    layer: tuple[str, np.ndarray, dict[str, Any]],
) -> None:
    """Each channel meets the activations that are worst for it; the bias takes off the exact sum of its worst pair."""
    op, weights, attributes = layer
    rows = naive_rows(op, weights)
    x = np.zeros((len(rows), len(rows[0])), np.uint8)
    losses = []
    for channel, row in enumerate(rows):
        worst = max((naive_loss(row, k, sign), k, sign) for k in range(0, len(row), 2) for sign in (1, -1))
        losses.append(worst[0])
        for k in range(worst[1], min(worst[1] + 2, len(row))):
            x[channel, k] = 255 * (row[k] * worst[2] > 0)
    bias = -np.array([np.dot(x[channel].astype(int), row) for channel, row in enumerate(rows)])
    if op == "Conv":
        groups = attributes["group"]
        images = np.moveaxis(x.reshape(len(rows), *weights.shape[2:], weights.shape[1]), -1, 1)
        model = qdq(op, weights, given := np.tile(images, (1, groups, 1, 1)), bias=bias, **attributes)
        replace(model, step=np.float32(1))
        found = np.diagonal(run(model, {"x": given}).reshape(len(rows), -1)) != 0
        depthwise = weights.shape[1] == 1 and len(weights) == groups
    else:
        model = qdq(op, weights, x, quantized=False)
        found = np.diagonal(run(model, {"x": x})) != -bias
        depthwise = False
    expected = [loss > 0 and not depthwise for loss in losses]
    np.testing.assert_array_equal(found, expected)
    (judged,) = certify(model, TARGET).layers
    assert judged.can_saturate == any(expected)
    assert judged.excess == (0 if depthwise else max(losses))
    lossy = sum(naive_loss(row, k, sign) > 0 for row in rows for k in range(0, len(row), 2) for sign in (1, -1))
    assert judged.pairs == (0 if depthwise else lossy)
