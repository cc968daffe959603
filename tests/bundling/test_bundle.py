"""What `edgekd bundle` writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from edgekd import bench, bundle
from edgekd.artifact import sha256_file, write_json
from edgekd.bundling.golden import LEAST_TOLERANCE
from edgekd.bundling.manifest import MANIFEST, read_manifest, require_whole
from edgekd.bundling.packages import PLATFORMS
from edgekd.bundling.variants import PLACES, choose, open_variants
from edgekd.cli import cli
from edgekd.data import Contract
from edgekd.errors import DataError, EdgekdError, ModelError, OutputError, UsageError
from edgekd.targets import detect_host
from tests.bundling.conftest import ASKED, IMAGE, LABELS, image_net, manifest

HOST = detect_host().name


def bundle_of(models: list[Path], folder: Path, **settings: Any) -> Path:
    bundle(models, folder, **{"platforms": ["python"], "runs": 1, "devices": ASKED, **settings})
    return folder


def values(app: Path, tensor: dict[str, Any]) -> np.ndarray:
    return np.fromfile(app / tensor["path"], np.dtype(tensor["dtype"])).reshape(tensor["shape"])


def test_every_file_is_listed_as_it_is(whole_bundle: Path) -> None:
    content = manifest(whole_bundle)
    listed = {entry["path"] for entry in content["files"]}
    packages = {path for path in whole_bundle.rglob("*") if path.relative_to(whole_bundle).parts[0] in PLATFORMS}
    present = {path for path in whole_bundle.rglob("*") if path.is_file()} - packages
    assert {path.relative_to(whole_bundle).as_posix() for path in present} == listed | {MANIFEST, "README.md"}
    for entry in content["files"]:
        assert entry["sha256"] == sha256_file(whole_bundle / entry["path"])
        assert entry["bytes"] == (whole_bundle / entry["path"]).stat().st_size


def test_each_target_gets_the_file_that_is_right_there(whole_bundle: Path) -> None:
    content = manifest(whole_bundle)
    chosen = {target: Path(choice["model"]).name for target, choice in content["targets"].items()}
    assert chosen == {
        "x86-avx2": "net.x86-avx2.onnx",
        "x86-vnni": "net.x86-avx2.onnx",
        "arm64": "net.x86-avx2.onnx",
        "arm64-dotprod": "net.arm64-dotprod.onnx",
        "arm64-i8mm": "net.x86-avx2.onnx",
        "wasm": "net.x86-avx2.onnx",
    }
    precision = {Path(variant["path"]).name: variant["precision"] for variant in content["variants"]}
    assert precision == {"net.x86-avx2.onnx": "int8", "net.arm64-dotprod.onnx": "int8", "net.onnx": "fp32"}


def test_a_file_that_saturates_is_for_no_such_cpu(models: list[Path]) -> None:
    safe, arm, fp32 = open_variants(models)
    assert "x86-avx2" not in arm.right_on
    assert set(safe.right_on) == set(fp32.right_on) == set(PLACES)
    assert choose([arm, fp32], "x86-avx2") is fp32
    assert choose([arm], "x86-avx2") is None
    assert choose([arm, safe], "wasm") is safe
    assert choose([arm, safe], "x86-vnni") is arm
    assert choose([fp32, arm], "arm64-dotprod") is arm


def test_expected_answers_are_onnxruntimes(whole_bundle: Path) -> None:
    content = manifest(whole_bundle)
    (given,) = content["golden"]["inputs"]
    inputs = values(whole_bundle, given)
    assert inputs.shape == (3, 1, 3, 20, 24)
    assert (content["golden"]["runs"], content["golden"]["source"]) == (3, "data")
    expected = content["targets"][HOST]["expected"]
    assert (expected["target"], expected["device"]) == (HOST, "local")
    (output,) = expected["outputs"]
    session = onnxruntime.InferenceSession(whole_bundle / content["targets"][HOST]["model"])
    found = np.stack([session.run(None, {"input": one})[0] for one in inputs])
    assert values(whole_bundle, output).shape == found.shape == (3, 1, 4)
    assert np.abs(values(whole_bundle, output) - found).max() <= output["tolerance"]
    assert output["tolerance"] >= LEAST_TOLERANCE * np.abs(found).max()


def test_answers_of_an_emulated_core_are_its_own(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a device answers goes to the targets of its kind, and widens the tolerance of all."""
    from edgekd.bundling import golden

    there = golden._run_here

    def run_there(variant: Any, inputs: Any, place: golden.Place) -> Any:
        found = there(variant, inputs, "all", 1)
        return {name: array + np.float32(0.5) for name, array in found.items()}

    monkeypatch.setattr(golden, "_run_there", run_there)
    app = bundle_of([models[1], models[2]], tmp_path / "app", devices=["qemu-cortex-a76"])
    content = manifest(app)
    on_arm = content["targets"]["arm64-dotprod"]["expected"]
    assert (on_arm["target"], on_arm["device"]) == ("arm64-dotprod", "qemu-cortex-a76")
    assert on_arm["outputs"][0]["tolerance"] == pytest.approx(1, rel=1e-3)
    old = content["targets"]["arm64"]["expected"]
    assert old["device"] == ("local" if HOST != "x86-avx2" else "qemu-cortex-a76")


def test_a_model_that_saturates_here_needs_a_device(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekd.bundling import golden
    from edgekd.targets import TARGETS

    monkeypatch.setattr(golden, "known_host", lambda: TARGETS["x86-avx2"])
    with pytest.raises(UsageError, match=r"saturates on x86-avx2, .*--device qemu-cortex-a76"):
        bundle_of(models, tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_what_the_manifest_says_of_the_models(whole_bundle: Path) -> None:
    content = manifest(whole_bundle)
    assert content["labels"] == list(LABELS)
    assert content["image"] == {
        "colour": "RGB",
        "layout": "NCHW",
        "height": 20,
        "width": 24,
        "mean": list(IMAGE.mean),
        "std": list(IMAGE.std),
        "resize": "cover-bicubic",
    }
    assert content["inputs"] == [{"name": "input", "dtype": "float32", "shape": [None, 3, 20, 24]}]
    assert content["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [None, 4]}]
    runtime = content["runtime"]
    assert runtime["onnxruntime"] == {"least": "1.18.0", "tested": onnxruntime.__version__}
    assert (runtime["ir_version"], runtime["opsets"]) == (10, {"": 18})
    assert {"Conv", "QuantizeLinear", "DequantizeLinear"} < set(runtime["operators"][""])
    components = [licence["component"] for licence in content["licences"]]
    assert components == ["onnxruntime", "parts of onnxruntime"]


def test_the_manifest_is_read_back(whole_bundle: Path) -> None:
    found = read_manifest(whole_bundle)
    assert found.to_json() == manifest(whole_bundle)
    require_whole(whole_bundle, found)


def test_no_path_of_this_machine_and_no_time(models: list[Path], whole_bundle: Path, tmp_path: Path) -> None:
    text = (whole_bundle / MANIFEST).read_text()
    assert str(models[0].parent) not in text
    again, twice = bundle_of(models, tmp_path / "a"), bundle_of(models, tmp_path / "b")
    for path in again.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (twice / path.relative_to(again)).read_bytes()


def test_session_benchmark_and_licences_go_along(models: list[Path], tmp_path: Path) -> None:
    session = {
        "intra_op_num_threads": 2,
        "intra_op_spinning": False,
        "enable_cpu_mem_arena": False,
        "graph_optimization_level": "extended",
    }
    write_json(tmp_path / "session.json", {"schema": "edgekd.session/1", "session": session})
    result = bench([models[2]], runs=3)
    write_json(tmp_path / "bench.json", result.to_json())
    for folder in ("mine", "yours"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "LICENSE").write_text(f"{folder}, all of it")
    app = bundle_of(
        models,
        tmp_path / "app",
        session=tmp_path / "session.json",
        benchmark=tmp_path / "bench.json",
        licences=[tmp_path / "mine" / "LICENSE", tmp_path / "yours" / "LICENSE"],
    )
    content = manifest(app)
    assert [variant["session"] for variant in content["variants"]] == [session] * 3
    assert [model["path"] for model in content["benchmark"]["models"]] == ["models/net.onnx"]
    texts = [(app / licence["path"]).read_text() for licence in content["licences"][2:]]
    assert texts == ["mine, all of it", "yours, all of it"]


def test_a_benchmark_of_other_models_is_refused(models: list[Path], tmp_path: Path) -> None:
    write_json(tmp_path / "bench.json", bench([models[2]], runs=1).to_json())
    with pytest.raises(DataError, match="other models than those of this bundle"):
        bundle_of(models[:1], tmp_path / "app", benchmark=tmp_path / "bench.json")


def test_made_up_inputs_are_called_so(models: list[Path], tmp_path: Path) -> None:
    golden = manifest(bundle_of(models[2:], tmp_path / "app", runs=2))["golden"]
    assert (golden["source"], golden["runs"]) == ("synthetic", 2)


def test_weights_in_another_file_come_into_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "outside"
    folder.mkdir()
    onnx.save(image_net(), folder / "net.onnx", save_as_external_data=True, size_threshold=0, location="net.bin")
    app = bundle_of([folder / "net.onnx"], tmp_path / "app")
    assert not list(app.rglob("net.bin"))
    onnxruntime.InferenceSession((app / "models" / "net.onnx").read_bytes())


def add_net(shape: list[Any], name: str = "x") -> onnx.ModelProto:
    node = helper.make_node("Add", [name, name], ["y"])
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_a_fixed_batch_is_fed_whole(tmp_path: Path) -> None:
    onnx.save(add_net([5, 2]), tmp_path / "net.onnx")
    app = bundle_of([tmp_path / "net.onnx"], tmp_path / "app", data={"x": np.ones((7, 2), np.float32)}, runs=2)
    assert manifest(app)["golden"]["inputs"][0]["shape"] == [2, 5, 2]


@pytest.mark.parametrize(
    ("settings", "kind", "told"),
    [
        ({"platforms": ["pyton"]}, UsageError, "perhaps you meant 'python'"),
        ({"platforms": []}, UsageError, "at least one platform of python"),
        ({"devices": ["no-such"]}, UsageError, "unknown device 'no-such'"),
        ({"session": "missing.json"}, DataError, "no such session file"),
        ({"benchmark": "missing.json"}, DataError, "missing.json"),
        ({"licences": ["missing"]}, DataError, "no such licence file"),
        ({"data": {"input": np.zeros((1, 3, 2, 2), np.float32)}}, DataError, "shape"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(
    settings: dict[str, Any], kind: type[EdgekdError], told: str, models: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(kind, match=told):
        bundle_of(models, tmp_path / "app", **settings)
    assert list(tmp_path.iterdir()) == []


def test_models_have_to_stand_for_each_other(models: list[Path], tmp_path: Path) -> None:
    onnx.save(add_net([None, 2]), tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="takes or gives something else"):
        bundle_of([models[2], tmp_path / "other.onnx"], tmp_path / "app")
    onnx.save(
        image_net(Contract(layout="NCHW", shape=(3, 20, 24), colour="BGR", mean=(0, 0, 0), std=(1, 1, 1))),
        tmp_path / "bgr.onnx",
    )
    with pytest.raises(ModelError, match="contract"):
        bundle_of([models[2], tmp_path / "bgr.onnx"], tmp_path / "app")
    with pytest.raises(UsageError, match="two models of the name"):
        bundle_of([models[2], models[2]], tmp_path / "app")
    (tmp_path / "copy.onnx").write_bytes(models[2].read_bytes())
    with pytest.raises(UsageError, match="given twice"):
        bundle_of([models[2], tmp_path / "copy.onnx"], tmp_path / "app")


def test_nan_is_no_golden_answer(models: list[Path], tmp_path: Path) -> None:
    node = helper.make_node("Sqrt", ["x"], ["y"])
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "n.onnx"
    )
    with pytest.raises(ModelError, match="holds NaN"):
        bundle_of([tmp_path / "n.onnx"], tmp_path / "app", data={"x": -np.ones((1, 1), np.float32)})


def test_nothing_that_is_there_is_lost(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="something is there already"):
        bundle_of(models, tmp_path / "app")
    assert [path.name for path in (tmp_path / "app").iterdir()] == ["mine.txt"]
    (tmp_path / "app" / "mine.txt").unlink()
    assert (bundle_of(models, tmp_path / "app") / MANIFEST).exists()


def spoil(app: Path, change: Any) -> None:
    content = manifest(app)
    change(content)
    (app / MANIFEST).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content.update(schema="edgekd.bundle/2"), "found schema 'edgekd.bundle/2'"),
        (lambda content: content.pop("targets"), "targets: Field required"),
        (lambda content: content["files"][0].update(path="../x"), "files.0.path: a path that leaves the bundle"),
        (lambda content: content["variants"][0].update(precision="int4"), "variants.0.precision"),
    ],
)
def test_a_bad_manifest_is_refused(change: Any, told: str, app: Path) -> None:
    spoil(app, change)
    with pytest.raises(DataError, match=told):
        read_manifest(app)


def test_keys_of_a_later_edgekd_are_left_unread(app: Path) -> None:
    spoil(app, lambda content: content.update(new={"key": 1}))
    assert read_manifest(app).name == "net"


def command_of(models: list[Path], folder: Path, *more: str) -> Result:
    devices = [word for device in ASKED for word in ("--device", device)]
    arguments = ["bundle", *map(str, models), "--platform", "python, python", "-o", str(folder), *devices, *more]
    return CliRunner().invoke(cli, arguments)


def test_the_command(models: list[Path], tmp_path: Path) -> None:
    ran = command_of(models, tmp_path / "app", "--runs", "1")
    assert ran.exit_code == 0, ran.output
    assert f"{tmp_path / 'app'}: " in ran.output
    assert "models/net.onnx (fp32, " in ran.output
    assert "for no CPU: another file is better on each" in ran.output
    assert "the golden inputs are made up" in ran.output
    assert {path.name for path in (tmp_path / "app").iterdir()} == {
        *("README.md", MANIFEST, "golden", "licences", "models", "python"),
    }
    assert (tmp_path / "app").stat().st_mode & 0o777 == 0o755


def test_the_command_says_which_cpus_get_nothing(models: list[Path], tmp_path: Path) -> None:
    ran = command_of(models[1:2], tmp_path / "app")
    assert "no file is right on x86-avx2: it would saturate there" in ran.output
