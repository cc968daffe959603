"""The one place that opens an onnxruntime session in this process.

(`benchmarking/runner.py`, which travels to devices on its own, opens its own.)
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from edgekd.data.contract import Contract, contract_of_metadata
from edgekd.data.labels import require_one_each
from edgekd.data.opening import open_data
from edgekd.data.samples import batches
from edgekd.errors import DataError, ModelError, reading
from edgekd.progress import SILENT, Progress
from edgekd.temporary import no_room
from edgekd.text import nearest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read by onnxruntime at its first import

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from edgekd.data.opening import DataLike
    from edgekd.data.samples import Samples

RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    error for error in vars(_state).values() if isinstance(error, type) and issubclass(error, Exception)
)
_LOGGER = logging.getLogger("edgekd")
_DEBUG_SEVERITY, _SILENT_SEVERITY = 2, 4  # warnings; only what ends the process: exceptions say all else
LARGEST_FILE = 2**31
RUN_ERRORS: tuple[type[Exception], ...] = (ValueError, RuntimeError, MemoryError, *RUNTIME_ERRORS)
BATCH_BYTES = 2**20  # of inputs; a network holds some fifty times as much in activations
MOST_AT_ONCE = 16
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    **{f"tensor({kind.__name__})": kind for kind in (np.int8, np.int16, np.int32, np.int64)},
    **{f"tensor({kind.__name__})": kind for kind in (np.uint8, np.uint16, np.uint32, np.uint64)},
    "tensor(bool)": np.bool_,
}


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
        raise ModelError(f"{name}: not an .onnx file; .ort and other files cannot be quantized: {error}") from error


def open_model(
    model: str | Path | bytes,
    *,
    name: str = "",
    threads: int = 0,
    optimized_path: Path | None = None,
    optimization: Optimization = "all",
    profile_prefix: Path | None = None,
) -> Model:
    """Open a model on the CPU.

    Args:
        model: A file, or the bytes of one.
        name: What messages call it; the path by default.
        threads: Threads of an operator; 0 leaves it to onnxruntime.
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


def input_dtype(spec: TensorSpec) -> np.dtype[Any] | None:
    """Return the numpy dtype of an input, or None if it holds no plain numbers."""
    kind = _DTYPES.get(spec.dtype)
    return None if kind is None else np.dtype(kind)


def open_samples(
    model: Model,
    data: DataLike,
    *,
    contract: Contract | None = None,
    labels: str = "folder",
) -> Samples:
    """Open data for a model: its inputs name the arrays, its metadata say how images are prepared."""
    inputs = [spec.name for spec in model.inputs]
    samples = open_data(data, inputs=inputs, contract=contract or model.contract, labels=labels)
    require_one_each(samples.labels, samples.name)
    return samples


def fit_inputs(model: Model, arrays: Mapping[str, NDArray[Any]], where: str) -> dict[str, NDArray[Any]]:
    """Return a batch of samples as the model's inputs want it.

    Args:
        model: The model.
        arrays: Arrays by input name, first axis = samples; further ones are left out.
        where: What messages call the data.

    Raises:
        DataError: an input is missing, or its shape or type does not fit.
        ModelError: an input is no tensor of numbers.
    """
    feeds: dict[str, NDArray[Any]] = {}
    for spec in model.inputs:
        if spec.name not in arrays:
            raise DataError(
                f"{where}: the model {model.name} takes an input {spec.name!r}{nearest(spec.name, arrays)}; "
                f"the data has: {', '.join(arrays)}"
            )
        array, dtype = arrays[spec.name], _dtype(model, "input", spec)
        fits = (
            not spec.shape
            or (  # onnxruntime tells a shape that was not declared by itself
                len(array.shape) == len(spec.shape)
                and all(
                    wanted is None or wanted == found
                    for wanted, found in zip(spec.shape[1:], array.shape[1:], strict=True)
                )
            )
        )
        if not fits:
            wanted = ["N" if extent is None else extent for extent in spec.shape]
            raise DataError(
                f"{where}: the model {model.name} takes {spec.name!r} of shape {wanted}, "
                f"the data has {['N', *array.shape[1:]]}"
            )
        if not np.can_cast(array.dtype, dtype, casting="same_kind"):
            raise DataError(
                f"{where}: the model {model.name} takes {spec.name!r} as {spec.dtype}, the data is {array.dtype}"
            )
        feeds[spec.name] = np.ascontiguousarray(array, dtype=dtype)
    return feeds


def _dtype(model: Model, role: Literal["input", "output"], spec: TensorSpec) -> type[np.generic]:
    """Return the numpy type of an input or output.

    Raises:
        ModelError: it is a sequence, a map, text, or of numbers that numpy does not know.
    """
    dtype = _DTYPES.get(spec.dtype)
    if dtype is None:
        raise ModelError(
            f"{model.name}: its {role} {spec.name!r} is {spec.dtype}; expected a tensor of plain numbers such as "
            "float32: export the model so, without text, sequences, maps (ZipMap) and bfloat16"
        )
    return dtype


def batch_size_for(samples: Samples) -> int:
    """Return how many samples to run at a time: what fits into `BATCH_BYTES` of inputs, at most 16."""
    size = sum(array.nbytes for array in samples.batch([0]).values())
    return max(1, min(MOST_AT_ONCE, BATCH_BYTES // max(size, 1)))


def feed(
    model: Model, samples: Samples, batch_size: int, limit: int | None = None
) -> Iterator[tuple[dict[str, NDArray[Any]], int]]:
    """Yield batches that fit the model's inputs, each with the number of samples in it.

    A model with a fixed batch axis is served batches of just that size: the last sample is repeated to fill the
    last one, and does not count.

    Args:
        model: The model.
        samples: What to feed it.
        batch_size: Samples at a time, where the model leaves it open.
        limit: At most so many samples.

    Raises:
        DataError: the samples do not fit the model.
    """
    fixed = fixed_batch(model)
    for arrays in batches(samples, fixed or batch_size, limit):
        count = len(next(iter(arrays.values())))
        padded = {name: _pad(array, fixed or count) for name, array in arrays.items()}
        yield fit_inputs(model, padded, samples.name), count


def fixed_batch(model: Model) -> int | None:
    """Return the number of samples the model takes at a time, or None if it takes any."""
    shape = model.inputs[0].shape if model.inputs else ()
    return shape[0] if shape else None


def predict(
    model: Model, samples: Samples, *, batch_size: int | None = None, title: str = "", progress: Progress = SILENT
) -> NDArray[Any]:
    """Return the model's first output for every sample, in order.

    Args:
        model: The model.
        samples: N samples.
        batch_size: Samples at a time, where the model leaves it open; by default as many as `batch_size_for` says.
        title: What the progress is called.
        progress: Listener.

    Returns:
        Shape (N, ...), trailing axes of extent 1 beyond the second removed: (N, classes, 1, 1) becomes
        (N, classes).

    Raises:
        DataError: the samples do not fit the model.
        ModelError: the model fails, or its output is no tensor of numbers, has no batch axis, or holds NaN or
            infinity.
    """
    first = _first_output(model)
    batches = feed(model, samples, batch_size or batch_size_for(samples))
    answers = ((model.run(feeds, [first])[0], count) for feeds, count in batches)
    return collect(model, samples, answers, title=title or f"run {Path(model.name).name}", progress=progress)


def collect(
    model: Model,
    samples: Samples,
    answers: Iterable[tuple[NDArray[Any], int]],
    *,
    title: str,
    progress: Progress = SILENT,
) -> NDArray[Any]:
    """Check and join what a model answered, wherever it ran.

    Args:
        model: The model.
        samples: N samples.
        answers: Its first output for each batch of them, in order, and how many of its rows count.
        title: What the progress is called.
        progress: Listener.

    Returns:
        As `predict`.

    Raises:
        ModelError: an output has no batch axis or holds NaN or infinity.
    """
    found = []
    first = _first_output(model)
    with progress.task(title, len(samples)) as task:
        for output, count in answers:
            expected = fixed_batch(model) or count
            if output.ndim < 1 or len(output) != expected:
                raise ModelError(
                    f"{model.name}: the output {first!r} has shape {output.shape} for {expected} samples; "
                    "its first axis must be the samples"
                )
            if not np.isfinite(output).all():
                raise ModelError(f"{model.name}: its output holds NaN or infinity for samples of {samples.name}")
            found.append(output[:count])
            task.advance(count)
    outputs = np.concatenate(found)
    while outputs.ndim > 2 and outputs.shape[-1] == 1:
        outputs = outputs[..., 0]
    return outputs


def _first_output(model: Model) -> str:
    """Return the name of a model's first output, a tensor of numbers."""
    if not model.outputs:
        raise ModelError(f"{model.name}: this model has no output; expected one whose first axis is the samples")
    _dtype(model, "output", model.outputs[0])
    return model.outputs[0].name


def _pad(array: NDArray[Any], size: int) -> NDArray[Any]:
    """Repeat the last sample until there are `size` of them."""
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
