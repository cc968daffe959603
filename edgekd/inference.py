"""Samples through a model: in batches that fit its inputs, and what it answers to all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekd.data.labels import require_one_each
from edgekd.data.opening import open_data
from edgekd.data.samples import batches
from edgekd.errors import DataError, ModelError
from edgekd.progress import SILENT, Progress
from edgekd.text import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from edgekd.data import Contract
    from edgekd.data.opening import DataLike
    from edgekd.data.samples import Samples
    from edgekd.runtime import Model, TensorSpec

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


def batch_size_for(samples: Samples) -> int:
    """Return how many samples to run at a time: what fits into `BATCH_BYTES` of inputs, at most 16."""
    size = sum(array.nbytes for array in samples.batch([0]).values())
    return max(1, min(MOST_AT_ONCE, BATCH_BYTES // max(size, 1)))


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


def input_dtype(spec: TensorSpec) -> np.dtype[Any] | None:
    """Return the numpy dtype of an input, or None if it holds no plain numbers."""
    kind = _DTYPES.get(spec.dtype)
    return None if kind is None else np.dtype(kind)


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


def _pad(array: NDArray[Any], size: int) -> NDArray[Any]:
    """Repeat the last sample until there are `size` of them."""
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
