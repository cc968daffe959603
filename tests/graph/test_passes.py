from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd.errors import ModelError
from edgekd.graph.folding import fold
from edgekd.graph.metadata import cap_ir_version, write_metadata
from edgekd.graph.opset import default_opset, lower_opset
from edgekd.graph.pooling import mean_to_pooling
from edgekd.graph.subnormals import count_subnormals, flush_subnormals
from edgekd.graph.tensors import tensors
from edgekd.graph.traces import strip_traces
from edgekd.graph.unused import drop_unused_initializers
from edgekd.runtime import open_model

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "/home/somebody/project/model.py"


def trace(entry: object) -> None:
    entry.doc_string = SECRET  # type: ignore[attr-defined]
    entry.metadata_props.add(key="stack_trace", value=SECRET)  # type: ignore[attr-defined]


def with_branch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add an If whose branches carry traces of their own."""
    output = helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, [1])
    value = numpy_helper.from_array(np.array([1e-41], dtype=np.float32))
    inner = helper.make_node("Constant", [], ["inner"], value=value)
    trace(inner)
    branch = helper.make_graph([inner], "branch", [], [output])
    trace(branch)
    yes = numpy_helper.from_array(np.array(True), "yes")
    model.graph.initializer.append(yes)
    node = helper.make_node("If", ["yes"], ["branched"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    return model


def test_traces_are_stripped_everywhere(make_conv_net: Callable[..., onnx.ModelProto]) -> None:
    model = with_branch(make_conv_net())
    model.doc_string = SECRET
    model.metadata_props.add(key="exporter", value=SECRET)
    model.metadata_props.add(key="edgekd.labels", value="cat")
    for entry in (model.graph, model.graph.node[0], model.graph.input[0], model.graph.initializer[0]):
        trace(entry)
    function = helper.make_function("ours", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [])
    trace(function)
    model.functions.append(function)
    # a text and an entry each: 4 entries of the graph, the function, and a graph and a node in both branches
    assert strip_traces(model) == 2 * (4 + 1 + 4) + len(["doc_string", "exporter"])
    assert b"somebody" not in model.SerializeToString()
    assert [entry.key for entry in model.metadata_props] == ["edgekd.labels"]
    assert strip_traces(model) == 0


def test_subnormal_weights_are_flushed_and_counted(make_conv_net: Callable[..., onnx.ModelProto]) -> None:
    model = with_branch(make_conv_net())
    tensor = model.graph.initializer[0]
    values = numpy_helper.to_array(tensor).copy()
    tiny = float(np.finfo(np.float32).tiny)
    values.flat[:4] = [tiny / 2, -tiny / 4, tiny, 0]
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    untouched = model.graph.initializer[2].SerializeToString()
    assert count_subnormals(model) == {tensor.name: 2, "": 2}
    assert flush_subnormals(model) == 2 + 2  # the If's branch stands there twice
    found = numpy_helper.to_array(model.graph.initializer[0]).flat[:4].tolist()
    assert found == [0, 0, np.float32(tiny), 0]
    assert model.graph.initializer[2].SerializeToString() == untouched
    assert flush_subnormals(model) == 0


def test_tensors_of_constants_functions_and_sparse_weights_are_all_found() -> None:
    def tensor(name: str) -> onnx.TensorProto:
        return numpy_helper.from_array(np.zeros(1, np.float32), name)

    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    one, several = helper.make_node("Constant", [], ["y"], value=tensor("one")), helper.make_node("Own", [], ["z"])
    several.attribute.append(helper.make_attribute("several", [tensor("two"), tensor("three")]))
    graph = helper.make_graph([one, several], "g", [], [], [tensor("weights")])
    graph.sparse_initializer.append(helper.make_sparse_tensor(tensor("values"), indices, [4]))
    body = helper.make_node("Constant", [], ["y"], value=tensor("inside"))
    function = helper.make_function("own", "F", [], ["y"], [body], opset_imports=[helper.make_opsetid("", 18)])
    model = helper.make_model(graph, functions=[function])
    assert [found.name for found in tensors(model)] == [
        *("weights", "values", "indices", "one", "two", "three", "inside"),
    ]


def test_metadata_is_sorted_and_replaced(make_conv_net: Callable[..., onnx.ModelProto]) -> None:
    model = make_conv_net()
    write_metadata(model, {"edgekd.b": "1", "edgekd.a": "2"})
    write_metadata(model, {"edgekd.b": "3"})
    assert [(e.key, e.value) for e in model.metadata_props] == [("edgekd.a", "2"), ("edgekd.b", "3")]


def test_the_ir_version_is_only_ever_lowered(make_conv_net: Callable[..., onnx.ModelProto]) -> None:
    model = make_conv_net()
    for version, expected in ((13, 10), (10, 10), (8, 8)):
        model.ir_version = version
        cap_ir_version(model)
        assert model.ir_version == expected


def test_folding_removes_batch_normalisation_and_keeps_answers_and_metadata(
    make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray
) -> None:
    model = make_conv_net()
    rng = np.random.default_rng(5)
    parts = {"s": rng.uniform(0.5, 2, 8), "o": rng.normal(size=8), "m": rng.normal(size=8), "v": rng.uniform(1, 2, 8)}
    for name, value in parts.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    model.graph.node[0].output[0] = "c0"
    model.graph.node.insert(1, helper.make_node("BatchNormalization", ["c0", "s", "o", "m", "v"], ["c1"], "bn"))
    write_metadata(model, {"edgekd.labels": "cat"})
    content = model.SerializeToString()
    folded = fold(content, "net")
    assert "BatchNormalization" not in {node.op_type for node in folded.graph.node}
    assert {value.name for value in folded.graph.value_info} >= {"r1", "a", "p"}
    assert [(e.key, e.value) for e in folded.metadata_props] == [("edgekd.labels", "cat")]
    assert [(e.domain, e.version) for e in folded.opset_import] == [("", 18)]
    before = open_model(content).run({"input": images})[0]
    after = open_model(folded.SerializeToString()).run({"input": images})[0]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def reduce_mean(attributes: str, initializer: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18]>
        g (float[N, 3, 8, 8] input) => (float[N, 3, A, B] logits)
        {initializer or "<int64[2] axes = {2, 3}>"} {{ r = Relu(input) m = ReduceMean{attributes}(r, axes) logits = Relu(m) }}"""
    )


@pytest.mark.parametrize("axes", ["{2, 3}", "{-1, -2}", "{-2, 3}"])
def test_a_mean_over_all_pixels_becomes_pooling(axes: str, images: np.ndarray) -> None:
    model = onnx.shape_inference.infer_shapes(reduce_mean("", f"<int64[2] axes = {axes}>"))
    before = open_model(model.SerializeToString()).run({"input": images})[0]
    assert mean_to_pooling(model) == 1
    assert drop_unused_initializers(model) == 1
    assert [node.op_type for node in model.graph.node] == ["Relu", "GlobalAveragePool", "Relu"]
    np.testing.assert_allclose(open_model(model.SerializeToString()).run({"input": images})[0], before, rtol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "axes"), [("<keepdims = 0>", "<int64[2] axes = {2, 3}>"), ("", "<int64[2] axes = {1, 2}>")]
)
def test_another_mean_stays(attributes: str, axes: str) -> None:
    model = onnx.shape_inference.infer_shapes(reduce_mean(attributes, axes))
    assert mean_to_pooling(model) == 0


def test_a_model_in_an_older_opset_answers_the_same(images: np.ndarray) -> None:
    model = onnx.shape_inference.infer_shapes(reduce_mean("<keepdims = 0>"))
    lowered = lower_opset(model, 17)
    assert default_opset(lowered) == 17
    assert lower_opset(lowered, 17) is lowered


def test_an_operator_without_an_older_form_is_refused() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N] x) => (float[N] y) { y = Gelu(x) }'
    )
    with pytest.raises(ModelError, match="cannot be written in opset 17, only in 20"):
        lower_opset(model, 17)
