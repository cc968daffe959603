"""What `doctor` finds in a model beside saturation: what it costs, what it needs, and why it cannot be loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import quantize
from edgekd.bundling.packages import PLATFORMS, find_platforms
from edgekd.cli import main
from edgekd.doctor import ModelReport, diagnose, examine
from edgekd.errors import ModelError, UsageError
from edgekd.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TARGET = TARGETS["x86-vnni"]


@pytest.fixture
def net(make_conv_net: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    return make_conv_net()


def look(model: onnx.ModelProto, folder: Path, platforms: Sequence[str] = ()) -> ModelReport:
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return examine(path, TARGET, platforms)


def told(report: ModelReport) -> dict[str, str]:
    """Return severity and message by kind; there is one of each."""
    assert len({finding.kind for finding in report.findings}) == len(report.findings)
    return {finding.kind: f"{finding.severity}: {finding.message}" for finding in report.findings}


def change(model: onnx.ModelProto, name: str, *values: float) -> None:
    """Give the first weights of a tensor other values."""
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    weights = numpy_helper.to_array(tensor).copy()
    weights.flat[: len(values)] = values
    tensor.CopyFrom(numpy_helper.from_array(weights, name))


def one_node(name: str, domain: str = "", *, kind: int = TensorProto.FLOAT, opset: int = 18) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(name, ["x"], ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", kind, [1])],
        [helper.make_tensor_value_info("y", kind, [1])],
    )
    domains = {"": opset} | ({domain: 1} if domain else {})
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*one) for one in domains.items()], ir_version=10
    )


def test_a_sound_model_has_no_findings(net: onnx.ModelProto, tmp_path: Path) -> None:
    report = look(net, tmp_path, tuple(PLATFORMS))
    assert report.findings == ()
    assert report.loads
    assert report.subnormals == {}
    assert report.conversions is None
    assert report.anatomy is not None
    assert report.anatomy.least_onnxruntime == "1.18.0"
    assert report.anatomy.opsets == {"": 18}
    assert report.anatomy.operators[""]["Conv"] == 2
    assert sum(report.anatomy.operators[""].values()) == 8


def test_subnormal_weights_are_counted_by_tensor(net: onnx.ModelProto, tmp_path: Path) -> None:
    change(net, "w1", 1e-40, -1e-39, 0)
    change(net, "b3", 1e-41)
    report = look(net, tmp_path)
    assert report.subnormals == {"w1": 2, "b3": 1}
    assert told(report) == {
        "subnormals": "warning: 3 weights (w1 x2, b3 x1) are subnormal: some CPUs compute 10 to 30 times slower with these"
    }


def test_weights_that_are_no_numbers_are_found_and_infinity_may_be_meant(
    net: onnx.ModelProto, tmp_path: Path
) -> None:
    change(net, "w1", np.nan, np.inf)
    assert told(look(net, tmp_path)) == {
        "not-a-number": "warning: 1 weight (w1 x1) is not a number (NaN), and so are the answers that they reach"
    }


def test_what_is_left_of_conversions(net: onnx.ModelProto, images: np.ndarray, tmp_path: Path) -> None:
    quantize(net.SerializeToString(), {"input": images}, tmp_path / "q.onnx", target="x86-vnni")
    report = examine(tmp_path / "q.onnx", TARGET)
    assert report.conversions is not None
    assert report.conversions.in_file > 10
    assert report.conversions.left == 1
    assert report.conversions.unfused == {}
    (finding,) = report.findings
    assert (finding.kind, finding.severity) == ("conversions", "info")


def test_an_operator_without_an_integer_form_between_two_that_have_one(
    net: onnx.ModelProto, images: np.ndarray, tmp_path: Path, quantize_plainly: Callable[..., None]
) -> None:
    relu = next(node for node in net.graph.node if node.name == "relu1")
    relu.op_type = "Elu"
    onnx.save(net, tmp_path / "elu.onnx")
    quantize_plainly(tmp_path / "elu.onnx", images, tmp_path / "q.onnx")
    report = examine(tmp_path / "q.onnx", TARGET)
    assert report.conversions is not None
    assert report.conversions.unfused == {"Elu": 1}
    assert told(report)["conversions"].endswith("left at run time: between integers, in fp32: Elu x1")
    assert report.findings[0].severity == "warning"


def test_conversions_that_no_integer_operator_is_made_of(tmp_path: Path) -> None:
    model = one_node("Relu")
    constants = [helper.make_tensor("s", 1, [], [0.1]), helper.make_tensor("z", 2, [], [3])]
    model.graph.initializer.extend(constants)
    del model.graph.node[:]
    model.graph.node.extend(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("Elu", ["d"], ["y"]),
        ]
    )
    report = look(model, tmp_path)
    assert told(report) == {
        "conversions": "warning: no operator of it runs in integers; 2 of 2 Q/DQ conversions left at run time"
    }


def test_axes_left_open_by_input_and_the_batch_is_normal(
    make_conv_net: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    assert told(look(make_conv_net(batch="N"), tmp_path)) == {}
    model = make_conv_net()
    shape = model.graph.input[0].type.tensor_type.shape
    shape.dim[2].dim_param = "height"
    shape.dim[3].Clear()
    report = look(model, tmp_path)
    assert report.anatomy is not None
    assert [(one.input, one.axis, one.name) for one in report.anatomy.open_axes] == [
        ("input", 2, "height"),
        ("input", 3, None),
    ]
    assert told(report) == {
        "open-axes": "warning: beside the batch, extents of inputs are open: 'input' (height, axis 3)"
    }
    assert "--dim height=N" in report.findings[0].advice
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert "'input' (no shape)" in told(look(model, tmp_path))["open-axes"]


def test_custom_operators_are_always_reported(tmp_path: Path) -> None:
    report = look(one_node("Fancy", "my.own"), tmp_path)
    assert not report.loads
    assert report.anatomy is not None
    assert report.anatomy.operators == {"my.own": {"Fancy": 1}}
    kinds = [(finding.kind, finding.severity) for finding in report.findings]
    assert kinds == [("operators", "error"), ("load", "error")]
    assert report.findings[0].message == "1 operator of no domain of onnxruntime's: my.own:Fancy"


def test_operators_without_a_kernel_are_named(tmp_path: Path) -> None:
    model = one_node("RandomUniformLike", opset=22)
    report = look(model, tmp_path)
    assert not report.loads
    assert "RandomUniformLike(22)" in next(one.message for one in report.findings if one.kind == "operators")


def test_a_file_that_onnxruntime_optimized_for_this_cpu(tmp_path: Path) -> None:
    model = one_node("ReorderInput", "com.microsoft.nchwc")
    report = look(model, tmp_path)
    (finding,) = (one for one in report.findings if one.kind == "operators")
    assert finding.severity == "warning"
    assert "ReorderInput" in finding.message


@pytest.mark.parametrize("platform", PLATFORMS)
def test_types_that_a_platform_refuses(platform: str, tmp_path: Path) -> None:
    """Measured with onnxruntime-node and onnxruntime-web 1.30.0: `Unsupported data type: 16`."""
    found = told(look(one_node("Identity", kind=TensorProto.BFLOAT16), tmp_path, [platform]))
    if platform in ("node", "web"):
        assert found["platform"] == (
            f"error: {platform}: JavaScript has no such input or output: 'x' is bfloat16, 'y' is bfloat16"
        )
    else:
        assert "platform" not in found


def test_platforms_are_named_with_commas() -> None:
    assert find_platforms("web, python,web") == ("python", "web")
    assert find_platforms("") == ()
    with pytest.raises(
        UsageError, match=r"unknown platform 'wep' \(perhaps you meant 'web'\?\); known: python, node"
    ):
        find_platforms("wep")


@pytest.fixture
def beside(net: onnx.ModelProto, tmp_path: Path) -> Callable[..., ModelReport]:
    """Give what is found of a model whose weights lie in `net.data`, once it names another place for them."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "net.onnx"
    onnx.save(net, path, save_as_external_data=True, location="net.data", size_threshold=0)
    model = onnx.load(path, load_external_data=False)

    def look_again(location: str = "net.data", platforms: Sequence[str] = (), **entries: str) -> ModelReport:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = {"location": location, **entries}.get(entry.key, entry.value)
        path.write_bytes(model.SerializeToString())
        return examine(path, TARGET, platforms)

    return look_again


def problem(report: ModelReport) -> str:
    """Return what is wrong with the one file of weights, which is an error; nothing was opened."""
    assert report.anatomy is not None
    (file,) = report.anatomy.external_data
    assert file.problem is not None
    (finding,) = report.findings
    assert (finding.kind, finding.severity, report.loads) == ("external-data", "error", False)
    assert file.problem in finding.message
    return file.problem


def test_weights_in_a_file_beside_it_are_read(
    beside: Callable[..., ModelReport], net: onnx.ModelProto, tmp_path: Path
) -> None:
    report = beside(platforms=["web"])
    size = (tmp_path / "model" / "net.data").stat().st_size
    assert report.loads
    assert report.anatomy is not None
    (file,) = report.anatomy.external_data
    assert (file.location, file.tensors, file.bytes, file.problem) == (
        "net.data",
        len(net.graph.initializer),
        size,
        None,
    )
    assert 0 < file.needed_bytes <= size
    assert told(report) == {
        "external-data": "info: 1 file of weights beside it, 3.4 kB",
        "platform": "warning: web: a page has no files beside the model",
    }


def test_weights_in_another_file_are_judged(net: onnx.ModelProto, tmp_path: Path) -> None:
    change(net, "w1", 1e-40)
    onnx.save(net, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    assert examine(tmp_path / "net.onnx", TARGET).subnormals == {"w1": 1}


def test_weights_that_are_missing_or_cut_off(beside: Callable[..., ModelReport], tmp_path: Path) -> None:
    assert problem(beside("gone.data")) == "no such file"
    (tmp_path / "model" / "net.data").write_bytes(b"12")
    assert "2 bytes, and" in problem(beside())


def test_a_path_that_leaves_the_folder_is_refused_and_not_opened(
    beside: Callable[..., ModelReport], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    outside = folder.rename(tmp_path / "moved") / "net.data"
    folder.mkdir()
    (folder / "link.data").symlink_to(outside)
    (folder / "round.data").symlink_to("round.data")
    os.mkfifo(folder / "pipe")  # opened, it would wait for ever
    leaves = "a path that leaves the model's folder"
    assert problem(beside("../moved/net.data")) == leaves
    assert problem(beside("sub/../../moved/net.data")) == leaves
    assert problem(beside("link.data")) == leaves
    assert problem(beside(str(outside))).startswith("an absolute path")
    assert problem(beside("C:\\net.data")).startswith("an absolute path")
    assert problem(beside("pipe")) == "no regular file"
    assert problem(beside(".")) == "no regular file"
    assert problem(beside("")) == "that names no file"
    assert problem(beside("a\0b")) == "that names no file"
    assert problem(beside("x" * 5000))
    assert problem(beside("round.data"))


@pytest.mark.parametrize(
    ("entries", "wrong"),
    [
        ({"offset": "-8"}, "an offset or length is negative"),
        ({"length": "many"}, "an offset or length is no number"),
        ({"length": "9" * 40}, "are needed: truncated or another model's"),
    ],
)
def test_places_in_a_file_that_cannot_be(
    entries: dict[str, str], wrong: str, beside: Callable[..., ModelReport]
) -> None:
    assert wrong in problem(beside(**entries))


def test_a_model_and_its_weights_behind_links_are_read(beside: Callable[..., ModelReport], tmp_path: Path) -> None:
    """As the caches of model hubs keep them."""
    assert beside().loads
    view = tmp_path / "view"
    view.mkdir()
    for name in ("net.onnx", "net.data"):
        (tmp_path / "model" / name).rename(tmp_path / "model" / f"blob-{name}")
        (view / name).symlink_to(tmp_path / "model" / f"blob-{name}")
    assert examine(view / "net.onnx", TARGET).loads


def without_end(content: bytes) -> bytes:
    return content[: len(content) // 2]


def cyclic(content: bytes) -> bytes:
    model = onnx.load_model_from_string(content)
    model.graph.node[0].input[0] = "r2"
    return bytes(model.SerializeToString())


def shapeless(content: bytes) -> bytes:
    model = onnx.load_model_from_string(content)
    model.graph.initializer[0].dims[0] = 2**40
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_end, "not an ONNX model, or cut off"),
        (lambda content: content[:4] + b"ORTM" + content[8:], "an .ort file"),
        (lambda _: b"", "this file is empty"),
        (lambda _: b"\x08" * 64, "not an ONNX model"),
        (lambda _: b"\x3a" + b"\xff" * 9 + b"\x01", "not an ONNX model"),
        (cyclic, "not an ONNX model that onnxruntime can load"),
        (shapeless, "not an ONNX model that onnxruntime can load"),
    ],
)
def test_what_cannot_be_loaded_is_said_and_exits_3(
    spoil: Callable[[bytes], bytes],
    message: str,
    net: onnx.ModelProto,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(spoil(net.SerializeToString()))
    (report,) = diagnose([path]).models
    assert not report.loads
    assert report.findings[-1].kind == "load"
    with pytest.raises(SystemExit) as end:
        main(["doctor", str(path)])
    assert end.value.code == 3
    said = capsys.readouterr()
    assert f"{path}: " in said.err
    assert message in said.err
    assert "cannot be loaded here" in said.out


def test_every_file_is_looked_at_before_any_is_refused(net: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(net, tmp_path / "good.onnx")
    found = diagnose([tmp_path / "none.onnx", tmp_path / "good.onnx", tmp_path / "gone.onnx"])
    assert [model.loads for model in found.models] == [False, True, False]
    with pytest.raises(ModelError) as error:
        found.require_sound()
    assert [line.rpartition("/")[2] for line in str(error.value).splitlines()] == [
        "none.onnx: no such model file",
        "gone.onnx: no such model file",
    ]
