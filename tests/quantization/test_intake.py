"""Models of other years, exporters and element types: quantized well, or refused with a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import quantize, runtime
from edgekd.errors import ModelError
from edgekd.quantization import static
from edgekd.quantization.intake import take_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(32, 3, 8, 8)).astype(np.float32)
WEIGHTS = {
    "w": RNG.normal(0, 0.3, (4, 3, 3, 3)),
    "b": RNG.normal(0, 0.1, 4),
    "g": RNG.normal(0, 0.5, (5, 4)),
    "gb": RNG.normal(0, 0.1, 5),
    "m": RNG.normal(0, 0.5, (4, 5)),
    "scale": RNG.uniform(0.5, 2, 4),
    "mean": RNG.normal(0, 0.1, 4),
    "var": RNG.uniform(0.5, 2, 4),
}


def build(
    nodes: Sequence[onnx.NodeProto], weights: str, *, shape: Sequence[int], opset: int, ir_version: int = 10
) -> onnx.ModelProto:
    """Return a model from `x`, of that shape without the batch, to `y`, with some of `WEIGHTS`."""
    tensors = [numpy_helper.from_array(WEIGHTS[name].astype(np.float32), name) for name in weights.split()]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def conv_gemm(opset: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "g", "gb"], ["y"], "fc", transB=1),
    ]
    return build(nodes, "w b g gb", shape=(3, 8, 8), opset=opset)


def require_near(model: onnx.ModelProto, inputs: np.ndarray, layers: int) -> onnx.ModelProto:
    """Quantize a model, hold the result against fp32, and return it."""
    result = quantize(model.SerializeToString(), {"x": inputs}, None, evaluation={"x": inputs})
    assert result.evaluation is not None
    assert result.evaluation.sqnr_db is not None
    assert result.evaluation.sqnr_db > 25
    assert result.fp32_layers == ()
    kernels = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")
    assert sum(result.audit.quantized.get(kind, 0) for kind in kernels) == layers
    return onnx.load_from_string(result.content)


@pytest.mark.parametrize("opset", range(7, 22))
def test_every_opset(opset: int) -> None:
    model = conv_gemm(opset)
    model.metadata_props.add(key="edgekd.labels", value="cat")
    quantized = require_near(model, IMAGES, 2)
    assert [(entry.domain, entry.version) for entry in quantized.opset_import] == [("", max(opset, 13))]
    assert "edgekd.labels" in {entry.key for entry in quantized.metadata_props}


@pytest.mark.parametrize("opset", range(7, 22))
def test_every_opset_with_a_matrix_product(opset: int) -> None:
    nodes = [helper.make_node("MatMul", ["x", "m"], ["p"], "mm"), helper.make_node("Add", ["p", "gb"], ["y"], "add")]
    inputs = RNG.normal(size=(16, 7, 4)).astype(np.float32)
    require_near(build(nodes, "m gb", shape=(7, 4), opset=opset), inputs, 1)


@pytest.mark.parametrize(("opset", "ir_version"), [(7, 3), (9, 4), (11, 6)])
def test_weights_that_are_listed_as_inputs(opset: int, ir_version: int) -> None:
    model = conv_gemm(opset)
    model.ir_version = ir_version
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    require_near(model, IMAGES, 2)


@pytest.mark.parametrize("opset", [9, 10])
def test_a_network_as_torchscript_wrote_it(opset: int) -> None:
    """Batch normalisation, ReLU6 as Clip with attributes, Dropout, and a view by the batch's own size."""
    minus_one = numpy_helper.from_array(np.array([-1], np.int64))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "b", "mean", "var"], ["n"], "bn", momentum=0.9),
        helper.make_node("Clip", ["n"], ["r"], "relu6", min=0.0, max=6.0),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Shape", ["p"], ["shape"], "shape"),
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.array(0, np.int64))),
        helper.make_node("Gather", ["shape", "zero"], ["size"], "gather", axis=0),
        helper.make_node("Unsqueeze", ["size"], ["sizes"], "unsqueeze", axes=[0]),
        helper.make_node("Constant", [], ["rest"], value=minus_one),
        helper.make_node("Concat", ["sizes", "rest"], ["view"], "concat", axis=0),
        helper.make_node("Reshape", ["p", "view"], ["f"], "reshape"),
        helper.make_node("Dropout", ["f"], ["d"], "dropout", ratio=0.2),
        helper.make_node("Gemm", ["d", "g", "gb"], ["y"], "fc", transB=1),
    ]
    require_near(build(nodes, "w b scale mean var g gb", shape=(3, 8, 8), opset=opset, ir_version=4), IMAGES, 2)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_channels_last_between_transposes(opset: int) -> None:
    """As tf2onnx writes it: NHWC outside, NCHW around each convolution."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["x1"], "in", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x1", "w", "b"], ["c"], "conv", pads=[0, 0, 1, 1], strides=[2, 2]),
        helper.make_node("Transpose", ["c"], ["c1"], "out", perm=[0, 2, 3, 1]),
        helper.make_node("Relu", ["c1"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "m"], ["p"], "mm"),
        helper.make_node("Add", ["p", "gb"], ["y"], "add"),
    ]
    model = build(nodes, "w b m gb", shape=(8, 8, 3), opset=opset)
    require_near(model, np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1)), 2)


def test_an_opset_that_cannot_be_raised_is_named() -> None:
    nodes = [
        helper.make_node("ThresholdedRelu", ["x"], ["t"], "relu", alpha=0.1),
        helper.make_node("Conv", ["t", "w", "b"], ["y"], "conv"),
    ]
    model = build(nodes, "w b", shape=(3, 8, 8), opset=9)
    with pytest.raises(
        ModelError, match=r"in opset 9, and cannot be brought into opset 13.*export it again"
    ) as caught:
        quantize(model.SerializeToString(), {"x": IMAGES}, None)
    assert "\n" not in str(caught.value)
    assert "Assertion" not in str(caught.value)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_an_opset_that_cannot_be_raised_without_a_change_is_refused(mode: str) -> None:
    """onnx's converter turns Upsample into a Resize that interpolates between other points."""
    nodes = [
        helper.make_node("Upsample", ["x"], ["u"], "up", scales=[1.0, 1.0, 2.0, 2.0], mode=mode),
        helper.make_node("Conv", ["u", "w", "b"], ["y"], "conv"),
    ]
    model = build(nodes, "w b", shape=(3, 8, 8), opset=7)
    if mode == "nearest":
        require_near(model, IMAGES, 1)
        return
    with pytest.raises(ModelError, match=r"output 'y' changes when .* export it again in opset 17"):
        quantize(model.SerializeToString(), {"x": IMAGES}, None)


def test_a_file_that_gives_nan_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = static.to_qdq

    def broken(*arguments: object) -> onnx.ModelProto:
        model: onnx.ModelProto = real(*arguments)  # type: ignore[arg-type]
        last = next(node for node in model.graph.node if "y" in node.output)
        last.output[0] = "before"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(np.nan), "nan"))
        model.graph.node.append(helper.make_node("Mul", ["before", "nan"], ["y"], "broken"))
        return model

    monkeypatch.setattr(static, "to_qdq", broken)
    with pytest.raises(ModelError, match="'y' holds NaN or infinity"):
        quantize(conv_gemm(18).SerializeToString(), {"x": IMAGES}, tmp_path / "q.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_alone_in_8_bits_are_quantized_already() -> None:
    """A constant DequantizeLinear disappears in folding: it has to be seen before."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[N, 3] x) => (float[N, 2] y) '
        "<int8[3, 2] q = {1, 2, 3, 4, 5, 6}, float s = {0.5}> { w = DequantizeLinear(q, s) y = MatMul(x, w) }"
    )
    with pytest.raises(ModelError, match=r"quantized already \(it has DequantizeLinear\)"):
        quantize(model.SerializeToString(), {"x": np.ones((4, 3), np.float32)}, None)


def test_what_quantize_wrote_is_quantized_already() -> None:
    nodes = [helper.make_node("MatMul", ["x", "m"], ["y"], "mm")]
    data = {"x": RNG.normal(size=(8, 4)).astype(np.float32)}
    once = quantize(build(nodes, "m", shape=(4,), opset=18).SerializeToString(), data, None).content
    with pytest.raises(ModelError, match="quantized already"):
        quantize(once, data, None)


@pytest.mark.parametrize(("kind", "name"), [(TensorProto.DOUBLE, "float64"), (TensorProto.FLOAT16, "float16")])
def test_other_floats_are_refused_with_advice(kind: int, name: str) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "mm")],
        "net",
        [helper.make_tensor_value_info("x", kind, ["N", 4])],
        [helper.make_tensor_value_info("y", kind, ["N", 5])],
        [numpy_helper.from_array(WEIGHTS["m"].astype(dtype), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(ModelError, match=rf"holds .*{name}.*export it again in float32"):
        quantize(model.SerializeToString(), {"x": np.ones((4, 4), dtype)}, None)


def test_an_ort_file_is_refused(tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto]) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "net.ort")
    onnxruntime.InferenceSession(make_conv_net().SerializeToString(), options)
    with pytest.raises(ModelError, match=r"net\.ort: not an \.onnx file"):
        quantize(tmp_path / "net.ort", {"input": IMAGES}, None)
    with pytest.raises(ModelError, match=r"net: not an \.onnx file; \.ort and other files cannot be taken here"):
        take_in((tmp_path / "net.ort").read_bytes(), "net")


def test_weights_in_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_conv_net: Callable[..., onnx.ModelProto]
) -> None:
    path, data = tmp_path / "net.onnx", {"input": IMAGES}
    onnx.save(make_conv_net(), path, save_as_external_data=True, location="net.bin", size_threshold=0)
    inside = quantize(make_conv_net().SerializeToString(), data, None).content
    assert quantize(path, data, tmp_path / "q.onnx").content == inside
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net.bin", "net.onnx", "q.onnx"]

    monkeypatch.setattr(runtime, "LARGEST_FILE", 2000)
    with pytest.raises(
        ModelError, match=r"net\.onnx: with its weights this model exceeds .* GB, the most that can be"
    ):
        quantize(path, data, tmp_path / "large.onnx")
    assert not (tmp_path / "large.onnx").exists()


def test_a_constant_in_another_file(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(np.ones((4, 5), np.float32), "w"))
    model = build([node, helper.make_node("MatMul", ["x", "w"], ["y"], "mm")], "", shape=(4,), opset=18)
    data = {"x": RNG.normal(size=(8, 4)).astype(np.float32)}
    inside = quantize(model.SerializeToString(), data, None).content
    onnx.save(
        model,
        tmp_path / "net.onnx",
        save_as_external_data=True,
        location="net.bin",
        size_threshold=0,
        convert_attribute=True,
    )
    assert quantize(runtime.read_self_contained(tmp_path / "net.onnx"), data, None).content == inside


def test_weights_outside_the_folder_are_refused(
    tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto]
) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "net.onnx"
    onnx.save(make_conv_net(), path, save_as_external_data=True, location="net.bin", size_threshold=0)
    (tmp_path / "in" / "net.bin").rename(tmp_path / "net.bin")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../net.bin"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"net\.onnx"):
        quantize(path, {"input": IMAGES}, None)
    with pytest.raises(ModelError, match="its weights in other files cannot be read"):
        runtime.read_self_contained(path)
