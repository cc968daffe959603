"""Bringing a model to a device: with the files that hold its weights, and only if the device's runtime takes it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from edgekd.artifact import sha256_file
from edgekd.drivers.jobs import run_job
from edgekd.errors import ModelError, reading
from edgekd.temporary import temporary_folder, temporary_room

if TYPE_CHECKING:
    import onnx

    from edgekd.drivers import Driver

RUNNER: Final = Path(__file__).with_name("runner.py")
ANSWERING: Final = Path(__file__).with_name("answering.py")  # imports the runner
METERED: Final = Path(__file__).with_name("metered.py")  # imports the runner
PROFILED: Final = Path(__file__).with_name("profiled.py")  # imports the runner
PACED: Final = Path(__file__).with_name("paced.py")  # imports the runner
_ORT_FORMAT: Final = b"ORTM"  # the file identifier in the flatbuffers schema of onnxruntime's own format


def ship_model(driver: Driver, path: Path) -> str:
    """Bring a model to an open driver's device and return where it is there.

    Raises:
        ModelError: it cannot be read, its weights lie outside its folder, or it is newer than the device's
            onnxruntime; then nothing has been pushed.
        DeviceError: the device failed.
    """
    if driver.on_this_machine:
        return driver.push(path)
    model = _read_graph(path)
    if model is None:
        return driver.push(path)
    companions = _companions(path, model)
    _check_version(driver, path, model)
    return driver.push(path, companions)


def _read_graph(path: Path) -> onnx.ModelProto | None:
    """Return the model without its outside weights, or None for what is no ONNX file: the device says more of it."""
    import onnx
    from google.protobuf.message import DecodeError

    with reading(path, ModelError, "model file"):
        data = path.read_bytes()
    if data[4:8] == _ORT_FORMAT:
        return None
    try:
        return onnx.load_model_from_string(data)
    except DecodeError:
        return None


def _companions(path: Path, model: onnx.ModelProto) -> list[str]:
    """Return the names of the files that hold the model's weights, relative to its folder."""
    names = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    for name in names:
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts:
            raise ModelError(f"{path}: its weights lie at {name!r}, outside its folder")
        if not (path.parent / name).is_file():
            raise ModelError(f"{path}: its weights are missing: no file {path.parent / name}")
    return sorted(names)


def _check_version(driver: Driver, path: Path, model: onnx.ModelProto) -> None:
    """Have the device's onnxruntime load a model of one node with the same stamps as this one."""
    with temporary_folder() as folder:
        stamp = folder / "stamp.onnx"
        with temporary_room():
            stamp.write_bytes(_stamp(model))
        job: dict[str, Any] = {
            "model": driver.push(stamp),
            "sha256": sha256_file(stamp),
            "threads": 1,
            "rehearsal": True,
            "data": None,
            "dims": {},
            "seed": 0,
            "runs": 1,
            "duration_s": 0.0,
            "journal": None,
        }
        opsets = ", ".join(f"{opset.domain or 'ai.onnx'} {opset.version}" for opset in model.opset_import)
        subject = (
            f"{path}: too new for device {driver.name}, so it was not pushed (IR version {model.ir_version}, opsets "
            f"{opsets}); export it with an older opset, or bring a newer onnxruntime there"
        )
        run_job(driver, RUNNER, job, {"model": subject, "data": subject, "device": f"device {driver.name}"})


def _stamp(model: onnx.ModelProto) -> bytes:
    """Return an Identity with the model's IR version and opsets."""
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "stamp", [x], [y])
    stamp = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    return bytes(stamp.SerializeToString())
