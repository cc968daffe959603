from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import ModelError
from edgekd.graph.folding import fold
from edgekd.quantization.calibration import activations
from edgekd.quantization.exact import integer_layers
from edgekd.quantization.qdq import to_qdq
from edgekd.quantization.saturation import PAIR_LIMIT, certify, neighbours, pair_excess, pairs_safe
from edgekd.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable

AVX2, VNNI, ARM = TARGETS["x86-avx2"], TARGETS["x86-vnni"], TARGETS["arm64-dotprod"]
node = helper.make_node


def build(nodes: list[onnx.NodeProto], constants: dict[str, Any], *, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Return a model that reads uint8 `x` and gives float `out`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def matmul(weights: np.ndarray, scale: Any = 1, **attributes: Any) -> onnx.ModelProto:
    """Return MatMul of dequantized `x` and weights."""
    nodes = [
        node("DequantizeLinear", ["x", "one", "zero"], ["a"]),
        node("DequantizeLinear", ["w", "scale", "wzero"], ["b"], **attributes),
        node("MatMul", ["a", "b"], ["out"], "product"),
    ]
    zero = np.zeros_like(scale, dtype=weights.dtype)
    constants = {"one": np.float32(1), "zero": np.uint8(0), "scale": np.float32(scale), "wzero": zero, "w": weights}
    return build(nodes, constants, shape=(1, len(weights)))


def column(*weights: int) -> np.ndarray:
    return np.array(weights, np.int8)[:, None]


# --- pairs ----------------------------------------------------------------------------------------------------------


def test_the_limit_is_the_same_for_both_signs() -> None:
    assert PAIR_LIMIT == 32767 // 255 == 32768 // 255 == 128


@pytest.mark.parametrize(
    ("pair", "excess"),
    [
        ((64, 64), 0),
        ((1, 127), 0),
        ((2, 127), 255 * 129 - 32767),
        ((127, 127), 32003),
        ((-64, -64), 0),
        ((-128, 0), 0),
        ((-128, -1), 255 * 129 - 32768),
        ((-128, -128), 32512),
        ((127, -128), 0),
    ],
)
def test_excess_of_a_pair(pair: tuple[int, int], excess: int) -> None:
    assert pair_excess(np.array([pair], np.int8)).tolist() == [[excess]]
    assert pairs_safe(np.array([pair], np.int8)).tolist() == [excess == 0]


def test_an_odd_row_ends_alone() -> None:
    rows = np.array([[1, 127, 127]], np.int8)
    assert neighbours(rows).tolist() == [[[1, 127], [127, 0]]]
    assert pair_excess(rows).tolist() == [[0, 0]]


def test_no_weights_are_safe() -> None:
    assert pairs_safe(np.zeros((3, 0), np.int8)).all()


# --- the certificate ------------------------------------------------------------------------------------------------


def test_certificate_of_a_layer() -> None:
    weights = np.concatenate([column(1, 127, 0, 0), column(-100, -100, 127, 127), column(127, 2, 0, 0)], axis=1)
    certificate = certify(matmul(weights), AVX2)
    (layer,) = certificate.layers
    assert (layer.name, layer.op_type, layer.tensor, layer.source) == ("product", "MatMul", "b", "file")
    assert (layer.pairs, layer.excess, layer.channel, layer.can_saturate) == (3, 32003, 1, True)
    assert certificate.to_json() == {
        "target": "x86-avx2",
        "layers": 1,
        "can_saturate": 1,
        "pairs": 3,
        "quantized_on_loading": [],
        "worst": [layer.to_json()],
    }
    json.dumps(certificate.to_json())


@pytest.mark.parametrize("target", [VNNI, ARM], ids=lambda target: target.name)
def test_nothing_saturates_where_products_are_summed_in_32_bits(target: Any) -> None:
    found = certify(matmul(column(127, 127)), target).to_json()
    assert (found["layers"], found["can_saturate"], found["worst"]) == (1, 0, [])


def test_the_worst_layers_come_first() -> None:
    nodes = [node("DequantizeLinear", ["x", "one", "zero"], ["a"])]
    constants: dict[str, Any] = {"one": np.float32(1), "zero": np.uint8(0), "wzero": np.int8(0)}
    for index, largest in enumerate((64, 70, 127, 90)):
        constants[f"w{index}"] = column(largest, largest)
        nodes += [
            node("DequantizeLinear", [f"w{index}", "one", "wzero"], [f"b{index}"]),
            node("MatMul", ["a", f"b{index}"], [f"y{index}"]),
        ]
    nodes.append(node("Sum", [f"y{index}" for index in range(4)], ["out"]))
    certificate = certify(build(nodes, constants, shape=(1, 2)), AVX2)
    assert [one.name for one in certificate.saturating] == ["y2", "y3", "y1"]
    found = certificate.to_json(worst=2)
    assert (found["layers"], found["can_saturate"], len(found["worst"])) == (4, 3, 2)


def test_weights_that_two_layers_share_are_judged_in_each() -> None:
    """Pairs of a matrix run down its columns; read transposed they run along its rows."""
    model = matmul(np.array([[127, 127], [0, 0]], np.int8))
    del model.graph.node[-1]
    model.graph.node.extend(
        [
            node("Transpose", ["b"], ["t"]),
            node("MatMul", ["a", "b"], ["y"], "straight"),
            node("MatMul", ["a", "t"], ["z"], "turned"),
            node("Sum", ["y", "z"], ["out"]),
        ]
    )
    assert [(one.name, one.can_saturate) for one in certify(model, AVX2).layers] == [
        ("straight", False),
        ("turned", True),
    ]


@pytest.mark.parametrize("scale", [0.5, np.array([0.5, 0.25], np.float32)])
def test_scales_do_not_matter(scale: Any) -> None:
    weights = np.concatenate([column(127, 127), column(1, 1)], axis=1)
    axis = {"axis": 1} if np.ndim(scale) else {}
    assert certify(matmul(weights, scale, **axis), AVX2).to_json()["can_saturate"] == 1


def test_other_integers_are_no_pairs() -> None:
    assert certify(matmul(np.full((2, 1), 255, np.uint8)), AVX2).to_json()["can_saturate"] == 0
    assert certify(matmul(np.full((2, 1), 255, np.uint16)), AVX2).layers == ()
    blocked = matmul(column(127, 127), np.ones((1, 1), np.float32), axis=0, block_size=2)
    assert certify(blocked, AVX2).layers == ()


def test_16_bit_activations_are_not_multiplied_in_8() -> None:
    model = matmul(column(127, 127))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT16
    model.graph.initializer.append(numpy_helper.from_array(np.uint16(0), "zero16"))
    model.graph.node[0].input[2] = "zero16"
    assert certify(model, AVX2).layers == ()


def test_an_fp32_model_has_no_integer_layers(make_conv_net: Callable[..., onnx.ModelProto]) -> None:
    assert integer_layers(make_conv_net()) == []


def test_layers_of_sub_graphs_read_weights_of_the_graph_around_them() -> None:
    inner = matmul(column(127, 127)).graph
    branch = helper.make_graph(
        [*inner.node[1:]], "then", [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    )
    branch.node[-1].input[0] = "local"
    branch.node.insert(0, inner.node[0])
    branch.node[0].output[0] = "local"
    model = build(
        [node("If", ["yes"], ["out"], "choice", then_branch=branch, else_branch=branch)],
        {t.name: numpy_helper.to_array(t) for t in inner.initializer} | {"yes": np.bool_(True)},
        shape=(1, 2),
    )
    assert [one.can_saturate for one in certify(model, AVX2).layers] == [True, True]


def test_constant_nodes_count_as_weights() -> None:
    model = matmul(column(127, 127))
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "w"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    value = numpy_helper.from_array(column(127, 127))
    model.graph.node.insert(0, node("Constant", [], ["w"], value=value))
    assert certify(model, AVX2).layers[0].pairs == 1


def test_weights_quantized_inside_the_graph_are_computed() -> None:
    model = matmul(column(0, 0))
    floats = np.array([[63.5, 0.1], [65.5, 0.4]], np.float32)
    for name, value in (("w", floats), ("scale", np.array([1, 0.005], np.float32)), ("wzero", np.zeros(2, np.int8))):
        next(t for t in model.graph.initializer if t.name == name).CopyFrom(numpy_helper.from_array(value, name))
    model.graph.node.insert(1, node("QuantizeLinear", ["w", "scale", "wzero"], ["wq"], axis=1))
    model.graph.node[2].input[0] = "wq"
    (layer,) = integer_layers(model)
    assert layer.values is not None
    assert layer.values.tolist() == [[64, 20], [66, 80]]  # 63.5 and 65.5 round half to even
    assert certify(model, AVX2).layers[0].excess == 255 * 130 - 32767


def test_weights_of_an_impossible_shape_are_an_error() -> None:
    model = matmul(np.full((2, 2), 100, np.int8))
    model.graph.node[-1].op_type = "Conv"
    model.graph.node[-1].output[0] = "y"
    model.graph.node.append(node("QuantizeLinear", ["y", "one", "zero"], ["out"]))
    with pytest.raises(ModelError, match=r"Conv with weights of shape \[2, 2\]"):
        certify(model, AVX2)


@pytest.mark.parametrize(("quantized_for", "saturates"), [(ARM, True), (AVX2, False)], ids=["8 bits", "7 bits"])
def test_certificate_of_a_quantized_network(
    make_conv_net: Callable[..., onnx.ModelProto], quantized_for: Any, saturates: bool
) -> None:
    """A file made for a CPU that sums in 32 bits is named where it is taken to one that does not."""
    model = fold(make_conv_net().SerializeToString(), "net")
    quantized = to_qdq(model, dict.fromkeys(activations(model), (0.0, 5.0)), quantized_for)
    found = certify(quantized, AVX2).to_json()
    assert found["layers"] == 3
    assert (found["can_saturate"] > 0) == saturates
    assert found["quantized_on_loading"] == []
    assert certify(quantized, quantized_for).to_json()["can_saturate"] == 0
