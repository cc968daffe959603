"""The one place that opens an onnxruntime session in this process.

(`benchmarking/runner.py`, which travels to devices on its own, opens its own.)
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx
from google.protobuf.message import DecodeError

from edgekd.data.contract import Contract, contract_of_metadata
from edgekd.errors import ModelError, reading
from edgekd.temporary import no_room

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read by onnxruntime at its first import

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    error for error in vars(_state).values() if isinstance(error, type) and issubclass(error, Exception)
)
_LOGGER = logging.getLogger("edgekd")
_DEBUG_SEVERITY, _SILENT_SEVERITY = 2, 4  # warnings; only what ends the process: exceptions say all else
LARGEST_FILE = 2**31
RUN_ERRORS: tuple[type[Exception], ...] = (ValueError, RuntimeError, MemoryError, *RUNTIME_ERRORS)
Optimization = Literal["all", "basic", "none"]
_LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a model; an axis whose extent is free is None, and `()` also stands for any shape."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Model:
    """An ONNX model ready to run.

    Attributes:
        name: The file's name, for messages.
        inputs: What it takes.
        outputs: What it gives.
        metadata: Its `metadata_props`.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]
    session: Any = field(repr=False)

    @property
    def contract(self) -> Contract | None:
        """The input contract in its metadata, if it has one."""
        return contract_of_metadata(self.metadata, self.name)

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: list[str] | None = None) -> list[NDArray[Any]]:
        """Return the outputs (all of them by default, none if none is named) for a batch.

        Raises:
            ModelError: the inputs do not fit, or onnxruntime fails.
        """
        if outputs is not None and not outputs:
            return []  # onnxruntime takes an empty list for all of them
        try:
            return list(self.session.run(outputs, dict(feeds)))
        except RUN_ERRORS as error:
            raise ModelError(f"{self.name}: onnxruntime cannot run this model: {_first_line(error)}") from error

    def end_profile(self) -> Path:
        """Finish the profile that `open_model` began, and return its file: JSON, a list of Chrome trace events."""
        return Path(self.session.end_profiling())


def read_model(path: str | Path) -> bytes:
    """Return the bytes of an ONNX file.

    Raises:
        ModelError: it is missing, unreadable or empty.
    """
    with reading(path, ModelError, "model file"):
        content = Path(path).read_bytes()
    if not content:
        raise ModelError(f"{path}: this file is empty, expected an ONNX model")
    return content


def read_self_contained(path: str | Path) -> bytes:
    """Return the bytes of an ONNX file with its weights inside, wherever they lie.

    Requires: a file that `open_model` opens.

    Raises:
        ModelError: it is missing, an .ort file, or too large for one file (2 GB, protobuf's limit).
    """
    content = read_model(path)
    model = parse_model(content, str(path))
    pointers = model.ByteSize()
    with reading(path, ModelError, "model's weights"):
        try:
            onnx.external_data_helper.load_external_data_for_model(model, str(Path(path).parent))
        except (ValueError, onnx.checker.ValidationError) as error:
            raise ModelError(f"{path}: its weights in other files cannot be read: {_first_line(error)}") from error
    if max(pointers, model.ByteSize()) >= LARGEST_FILE:
        raise ModelError(
            f"{path}: with its weights this model exceeds {LARGEST_FILE / 2**30:.3g} GB, the most that can be "
            "quantized: it has to fit into one file at every step"
        )
    if model.ByteSize() == pointers:
        return content
    whole: bytes = model.SerializeToString()
    return whole


def parse_model(content: bytes, name: str) -> onnx.ModelProto:
    """Return the bytes of an ONNX file as a message; weights in other files stay there.

    Raises:
        ModelError: it is none. onnxruntime also opens files in its own format, .ort, which are not.
    """
    try:
        return onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError(f"{name}: not an .onnx file; .ort and other files cannot be taken here: {error}") from error


def open_model(
    model: str | Path | bytes,
    *,
    name: str = "",
    threads: int = 0,
    spinning: bool = True,
    optimized_path: Path | None = None,
    optimization: Optimization = "all",
    profile_prefix: Path | None = None,
) -> Model:
    """Open a model on the CPU.

    Args:
        model: A file, or the bytes of one.
        name: What messages call it; the path by default.
        threads: Threads of an operator; 0 leaves it to onnxruntime.
        spinning: Whether these threads stay awake between two runs: quicker, but they hold their cores, also against
            another library's threads that work in between.
        optimized_path: Write the optimized model here; by default nothing is written.
        optimization: Which of onnxruntime's optimizations to use: `"all"`, `"basic"` (those that depend on no
            machine) or `"none"`.
        profile_prefix: Time every node, and write the times to a file whose name begins so; `end_profile` says which.

    Raises:
        ModelError: missing, damaged, or not an ONNX model.
    """
    name = name or (str(model) if not isinstance(model, bytes) else "model")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _DEBUG_SEVERITY if _LOGGER.isEnabledFor(logging.DEBUG) else _SILENT_SEVERITY
    options.graph_optimization_level = _LEVELS[optimization]
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    content = model if isinstance(model, bytes) else read_model(model)
    path = None if isinstance(model, bytes) else os.fsencode(model)
    # onnxruntime takes no path that is not UTF-8, and finds weights beside a file by its path alone
    source = content if path is None or path.decode(errors="replace").encode() != path else str(model)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        raise ModelError(f"{name}: not an ONNX model that onnxruntime can load: {_first_line(error)}") from error
    return Model(
        name=name,
        inputs=tuple(_spec(value) for value in session.get_inputs()),
        outputs=tuple(_spec(value) for value in session.get_outputs()),
        metadata=dict(session.get_modelmeta().custom_metadata_map),
        session=session,
    )


def write_optimized(content: bytes, path: Path, *, name: str, optimization: Optimization) -> Model:
    """Open a model and write it to the temporary file `path` as onnxruntime optimizes it.

    Raises:
        ModelError: it is damaged, or not an ONNX model.
        OutputError: there is no room for the file.
    """
    try:
        return open_model(content, name=name, optimized_path=path, optimization=optimization)
    except ModelError as error:
        open_model(content, name=name, optimization=optimization)  # the model's own fault shows here, too
        raise no_room(f"there is none for an optimized copy of {name}") from error


def _spec(value: Any) -> TensorSpec:
    shape = tuple(extent if isinstance(extent, int) else None for extent in value.shape)
    return TensorSpec(name=value.name, dtype=value.type, shape=shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
