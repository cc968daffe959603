"""What of our files onnxruntime runs in integers: one small model for each pattern that has broken fusion somewhere."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd import quantize
from edgekd.data.samples import ArraySamples
from edgekd.errors import ModelError
from edgekd.graph.folding import fold
from edgekd.graph.fusible import make_fusible
from edgekd.quantization.audit import Audit, audit
from edgekd.quantization.calibration import minmax_ranges
from edgekd.quantization.qdq import fp32_layers, to_qdq
from edgekd.targets import TARGETS
from tests.quantization.calibrations import over

if TYPE_CHECKING:
    from collections.abc import Callable

node = helper.make_node
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(0, 2, (32, 8, 10, 10)).astype(np.float32)
CONSTANTS = {
    "low": np.float32(0),
    "six": np.float32(6),
    "three": np.float32(3),
    "slope": RNG.normal(0, 0.2, (8, 1, 1)).astype(np.float32),
    "pixels": np.array([2, 3]),
    "flat": np.array([-1, 800]),
    "split": np.array([-1, 2, 4, 10, 10]),
    "joined": np.array([-1, 8, 10, 10]),
    "bounds": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "gamma": RNG.normal(1, 0.5, 8).astype(np.float32),
    "beta": RNG.normal(0, 0.5, 8).astype(np.float32),
    "average": RNG.normal(0, 0.5, 8).astype(np.float32),
    "variance": RNG.uniform(0.2, 2, 8).astype(np.float32),
}


def conv(reads: str, gives: str, channels: int = 8, inputs: int = 8, size: int = 3) -> onnx.NodeProto:
    pads = [size // 2] * 4
    return node("Conv", [reads, f"w{channels}x{inputs}x{size}_{gives}"], [gives], f"conv_{gives}", pads=pads)


def head(reads: str, inputs: int = 8, pool: str = "GlobalAveragePool") -> list[onnx.NodeProto]:
    """Return a classifier of four classes."""
    return [
        node(pool, [reads], ["pooled"], "pool"),
        node("Flatten", ["pooled"], ["flattened"], "flatten"),
        node("Gemm", ["flattened", f"w4x{inputs}"], ["logits"], "fc", transB=1),
    ]


def build(nodes: list[onnx.NodeProto], opset: int = 18) -> bytes:
    """Return a model of these nodes on (N, 8, 10, 10) inputs; weights named like `w4x8` are drawn in that shape."""
    weights = {}
    for name in dict.fromkeys(name for one in nodes for name in one.input):
        if name in CONSTANTS:
            weights[name] = CONSTANTS[name]
        elif name.startswith("w") and name[1].isdigit():
            extents = [int(extent) for extent in name[1:].partition("_")[0].split("x")]
            shape = [*extents, extents[-1]] if len(extents) == 3 else extents
            weights[name] = np.random.default_rng(len(weights)).normal(0, 0.2, shape).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", 8, 10, 10])],
        [helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


@dataclass(frozen=True, kw_only=True)
class Fuses:
    """A pattern between convolutions, and the integer operators beside them that it becomes."""

    nodes: list[onnx.NodeProto]
    becomes: dict[str, int] = field(default_factory=dict)
    convolutions: int = 2


def then(*middle: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return nodes that turn `a` into `b`, between two convolutions and in front of a classifier."""
    return [conv("input", "a"), *middle, conv("b", "c"), *head("c")]


def residual(activation: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    return [
        conv("input", "a"),
        node("Relu", ["a"], ["r"], "relu"),
        conv("r", "c"),
        node("Add", ["c", "r"], ["sum"], "add"),
        *activation,
        conv("b", "d"),
        *head("d"),
    ]


def clip(reads: str, gives: str) -> onnx.NodeProto:
    return node("Clip", [reads, "low", "six"], [gives], f"clip_{gives}")


def relu(reads: str, gives: str) -> onnx.NodeProto:
    return node("Relu", [reads], [gives], f"relu_{gives}")


def squeeze_excite(gate: onnx.NodeProto) -> list[onnx.NodeProto]:
    return [
        conv("input", "a"),
        relu("a", "r"),
        node("GlobalAveragePool", ["r"], ["mean"], "mean"),
        conv("mean", "s", 2, 8, 1),
        relu("s", "t"),
        conv("t", "u", 8, 2, 1),
        gate,
        node("Mul", ["r", "gate"], ["b"], "scale"),
        conv("b", "c"),
        *head("c"),
    ]


HARD = node("HardSigmoid", ["u"], ["gate"], "gate", alpha=1 / 6, beta=0.5)
PATTERNS = {
    "Relu": Fuses(nodes=then(relu("a", "b"))),
    "ReLU6 as Clip": Fuses(nodes=then(clip("a", "b"))),
    "ReLU6 before the pooling": Fuses(nodes=[conv("input", "a"), clip("a", "b"), *head("b")], convolutions=1),
    "residual, linear": Fuses(
        nodes=residual([node("Identity", ["sum"], ["b"])]), becomes={"QLinearAdd": 1}, convolutions=3
    ),
    "residual, Relu": Fuses(nodes=residual([relu("sum", "b")]), becomes={"QLinearAdd": 1}, convolutions=3),
    "residual, ReLU6": Fuses(nodes=residual([clip("sum", "b")]), becomes={"QLinearAdd": 1}, convolutions=3),
    "residual, pre-activation": Fuses(
        nodes=residual(
            [
                node("BatchNormalization", ["sum", "gamma", "beta", "average", "variance"], ["n"], "norm"),
                relu("n", "b"),
            ]
        ),
        becomes={"QLinearAdd": 1},
        convolutions=4,
    ),
    "Concat": Fuses(
        nodes=[
            conv("input", "a"),
            relu("a", "r"),
            conv("r", "c"),
            node("Concat", ["r", "c"], ["b"], "concat", axis=1),
            *head("b", 16),
        ],
        becomes={"QLinearConcat": 1},
    ),
    "HardSwish": Fuses(
        nodes=then(node("HardSwish", ["a"], ["b"], "swish")), becomes={"QLinearAdd": 1, "QLinearMul": 1}
    ),
    "HardSwish, opset 11 style": Fuses(
        nodes=then(
            node("Add", ["a", "three"], ["p"], "add"),
            clip("p", "q"),
            node("Mul", ["a", "q"], ["r"], "mul"),
            node("Div", ["r", "six"], ["b"], "div"),
        ),
        becomes={"QLinearAdd": 1, "QLinearMul": 2},
    ),
    "SiLU": Fuses(
        nodes=then(node("Sigmoid", ["a"], ["p"], "sigmoid"), node("Mul", ["a", "p"], ["b"], "mul")),
        becomes={"QLinearSigmoid": 1, "QLinearMul": 1},
    ),
    "squeeze and excite": Fuses(
        nodes=squeeze_excite(HARD),
        becomes={"QLinearAdd": 1, "QLinearMul": 1, "QLinearGlobalAveragePool": 1},
        convolutions=4,
    ),
    "squeeze and excite, Sigmoid": Fuses(
        nodes=squeeze_excite(node("Sigmoid", ["u"], ["gate"], "gate")),
        becomes={"QLinearSigmoid": 1, "QLinearMul": 1, "QLinearGlobalAveragePool": 1},
        convolutions=4,
    ),
    "MaxPool": Fuses(
        nodes=then(relu("a", "r"), node("MaxPool", ["r"], ["b"], "max", kernel_shape=[2, 2])),
        becomes={"NhwcMaxPool": 1},
    ),
    "AveragePool": Fuses(
        nodes=then(node("AveragePool", ["a"], ["b"], "mean", kernel_shape=[2, 2])), becomes={"QLinearAveragePool": 1}
    ),
    "mean with axes": Fuses(
        nodes=[
            conv("input", "a"),
            node("ReduceMean", ["a", "pixels"], ["pooled"], "mean"),
            *head("", 8)[1:],
        ],
        convolutions=1,
    ),
    "mean without axes": Fuses(
        nodes=[
            conv("input", "a"),
            node("ReduceMean", ["a", "pixels"], ["flattened"], "mean", keepdims=0),
            *head("", 8)[2:],
        ],
        convolutions=1,
    ),
    "LeakyRelu": Fuses(nodes=then(node("LeakyRelu", ["a"], ["b"], "leaky")), becomes={"QLinearLeakyRelu": 1}),
    "shuffle": Fuses(
        nodes=then(
            node("Reshape", ["a", "split"], ["p"], "split"),
            node("Transpose", ["p"], ["q"], "turn", perm=[0, 2, 1, 3, 4]),
            node("Reshape", ["q", "joined"], ["b"], "join"),
        )
    ),
    "Pad": Fuses(nodes=then(relu("a", "r"), node("Pad", ["r", "bounds"], ["b"], "pad"))),
    "Resize": Fuses(nodes=then(relu("a", "r"), node("Resize", ["r", "", "scales"], ["b"], "resize", mode="nearest"))),
    "a number taken off": Fuses(
        nodes=then(relu("a", "r"), node("Sub", ["r", "three"], ["b"], "sub")), becomes={"QLinearAdd": 1}
    ),
}


def examined(model: bytes) -> tuple[Audit, float]:
    """Quantize a model; return its audit and the SQNR of its outputs in dB."""
    found = quantize(model, {"input": IMAGES}, None, target="x86-avx2", evaluation={"input": IMAGES})
    assert found.evaluation is not None
    assert found.evaluation.sqnr_db is not None
    return found.audit, found.evaluation.sqnr_db


@pytest.mark.parametrize("name", PATTERNS)
def test_fuses(name: str) -> None:
    pattern = PATTERNS[name]
    found, sqnr_db = examined(build(pattern.nodes))
    expected = Counter(pattern.becomes) + Counter(
        QLinearConv=pattern.convolutions, QLinearGlobalAveragePool=1, QGemm=1
    )
    assert Counter(found.quantized) == expected
    assert (found.quantize, found.dequantize) == (1, 0)
    assert found.islands == ()
    assert sqnr_db > 30


def test_reshape_in_front_of_a_matrix_fuses() -> None:
    nodes = [conv("input", "a"), relu("a", "r"), node("Reshape", ["r", "flat"], ["f"], "reshape")]
    found, _ = examined(build([*nodes, node("Gemm", ["f", "w4x800"], ["logits"], "fc", transB=1)]))
    assert found.quantized == {"QLinearConv": 1, "QGemm": 1}
    assert (found.quantize, found.dequantize, found.islands) == (1, 0, ())


@pytest.mark.parametrize("operator", ["Tanh", "Elu", "PRelu", "Gelu"])
def test_an_operator_without_an_integer_kernel_is_an_island(operator: str) -> None:
    inputs = ["a", "slope"] if operator == "PRelu" else ["a"]
    found, _ = examined(build(then(node(operator, inputs, ["b"], "other")), 20))
    (island,) = found.islands
    assert island.operators == (operator,)
    assert island.nodes == ("other",)
    assert island.place == "between"
    assert island.converted
    assert (found.quantize, found.dequantize) == (2, 1)
    assert island.time_us is None
    assert found.to_json()["surviving_qdq"] == 3


def test_normalising_and_probabilities_stay_in_fp32_and_break_nothing() -> None:
    nodes = [
        node("Mul", ["input", "slope"], ["n"], "normalise"),
        conv("n", "c"),
        *head("c"),
        node("Softmax", ["logits"], ["probabilities"], "softmax"),
    ]
    found, sqnr_db = examined(build(nodes))
    assert [(island.nodes, island.place) for island in found.islands] == [
        (("normalise",), "before"),
        (("softmax",), "behind"),
    ]
    assert not any(island.converted for island in found.islands)
    assert found.quantized == {"QLinearConv": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1}
    assert (found.quantize, found.dequantize) == (1, 0)
    assert sqnr_db > 40


def test_a_quantized_table_is_no_conversion_of_computed_integers() -> None:
    """Rows of a table are unpacked, computed with in fp32, and quantized for a product: nothing was broken there."""
    constants = {
        "table": RNG.integers(-99, 99, (50, 16)).astype(np.int8),
        "weights": RNG.integers(-99, 99, (16, 8)).astype(np.int8),
        "scale": np.float32(0.1),
        "nil": np.int8(0),
        "middle": np.uint8(128),
    }
    nodes = [
        node("Gather", ["table", "ids"], ["rows"]),
        node("DequantizeLinear", ["rows", "scale", "nil"], ["embedded"]),
        node("Tanh", ["embedded"], ["t"], "other"),
        node("QuantizeLinear", ["t", "scale", "middle"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "middle"], ["d"]),
        node("DequantizeLinear", ["weights", "scale", "nil"], ["w"]),
        node("MatMul", ["d", "w"], ["product"], "product"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["batch", 4])],
        [helper.make_tensor_value_info("product", onnx.TensorProto.FLOAT, ["batch", 4, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = audit(model.SerializeToString(), name="m")
    assert found.quantized == {"MatMulIntegerToFloat": 1}
    (island,) = found.islands
    assert (island.nodes, island.place, island.converted) == (("other",), "between", False)


def test_islands_are_measured_when_asked() -> None:
    model = build(then(node("Tanh", ["a"], ["b"], "other")))
    data = {"input": IMAGES}
    measured = quantize(model, data, None, target="x86-avx2", measure=True).audit
    assert measured.time_us is not None
    (island,) = measured.islands
    assert island.time_us is not None
    assert island.share is not None
    assert 0 < island.time_us < measured.time_us
    assert island.share == pytest.approx(island.time_us / measured.time_us)
    content = measured.to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert quantize(model, data, None, target="x86-avx2").to_json()["audit"]["time_us"] is None


def test_an_fp32_model_is_one_island_apart() -> None:
    found = audit(build(then(relu("a", "b"))), name="m", samples=ArraySamples({"input": IMAGES}), runs=3)
    (island,) = found.islands
    assert found.quantized == {}
    assert island.place == "apart"
    assert island.share == pytest.approx(1)
    with pytest.raises(ModelError, match="m: not an ONNX model"):
        audit(b"nothing", name="m")


@pytest.mark.parametrize("guarded", [False, True])
def test_a_layer_between_integers_stays_in_fp32_by_its_guard(guarded: bool) -> None:
    """Without the one-input Sum, onnxruntime quantizes a Conv with fp32 weights as it opens the file."""
    model = build([conv("input", "a"), relu("a", "r"), conv("r", "b"), relu("b", "s"), conv("s", "c"), *head("c")])
    prepared = make_fusible(fold(model, "m"))
    ranges = minmax_ranges(prepared, over(ArraySamples({"input": IMAGES})))
    mixed = to_qdq(prepared, ranges, TARGETS["x86-avx2"], {"conv_b"})
    assert fp32_layers(mixed) == ("conv_b",)
    onnx.checker.check_model(mixed, full_check=True)
    if not guarded:
        guard = next(one for one in mixed.graph.node if one.name == "edgekd.conv_b.guard")
        next(one for one in mixed.graph.node if one.name == "conv_b").input[0] = guard.input[0]
        mixed.graph.node.remove(guard)
    found = audit(mixed.SerializeToString(), name="m")
    assert found.quantized["QLinearConv"] == (2 if guarded else 3)
    islands = [(island.operators[0], "Conv" in island.operators, island.place) for island in found.islands]
    assert islands == ([("Sum", True, "between")] if guarded else [])


def test_nodes_without_names_are_quantized_too(
    make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray
) -> None:
    model = make_conv_net()
    for one in model.graph.node:
        one.name = ""
    named = make_conv_net().SerializeToString()
    unnamed = quantize(model.SerializeToString(), {"input": images}, None, evaluation={"input": images})
    assert unnamed.audit == quantize(named, {"input": images}, None).audit
    assert unnamed.evaluation is not None
    assert unnamed.evaluation.agreement is not None
    assert unnamed.evaluation.agreement > 0.9


def test_our_files_are_valid_onnx(make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray) -> None:
    """onnxruntime's quantizer leaves its nodes unsorted, which ONNX forbids."""
    model = make_conv_net().SerializeToString()
    onnx.checker.check_model(quantize(model, {"input": images}, None).content, full_check=True)
