"""Look at the activations inside a model while it runs over samples, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import onnx
from onnx import helper

from edgekd.inference import feed, fixed_batch
from edgekd.progress import SILENT, Progress
from edgekd.runtime import open_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgekd.data.samples import Samples
    from edgekd.runtime import Model

FETCHED_BYTES: Final = 64 << 20  # of activations that one run of a model may leave in memory
_SIZE = "edgekd.size."


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The data that a model is run over while it is looked at.

    Attributes:
        samples: The data.
        name: What messages call the model.
        limit: At most so many samples.
        batch_size: At most so many samples at a time, where the model leaves it open.
        progress: Listener.
    """

    samples: Samples
    name: str
    limit: int | None = None
    batch_size: int = 16
    progress: Progress = SILENT

    @property
    def count(self) -> int:
        """How many samples are run."""
        return min(len(self.samples), self.limit or len(self.samples))

    def open(self, model: onnx.ModelProto) -> Model:
        """Return a form of the model, ready to run.

        Raises:
            ModelError: it does not load.
        """
        return open_model(model.SerializeToString(), name=self.name)

    def feed(self, model: Model, batch_size: int | None = None) -> Iterator[tuple[dict[str, NDArray[Any]], int]]:
        """Yield batches of the samples as `edgekd.inference.feed` does, of `batch_size` instead of its own if given.

        Raises:
            DataError: the samples do not fit the model.
        """
        return feed(model, self.samples, batch_size or self.batch_size, self.limit)


def watch(
    model: onnx.ModelProto, tensors: Sequence[str], calibration: Calibration, batch_size: int | None = None
) -> Iterator[tuple[dict[str, NDArray[np.float32]], int]]:
    """Yield the values of tensors for each batch, by name, and how many samples are in it.

    What a fixed batch axis makes a last batch be filled up with is cut off.

    Args:
        model: With shapes and types inferred.
        tensors: Names of float32 tensors, inputs among them or not.
        calibration: What the model runs over.
        batch_size: Samples at a time, instead of the calibration's.

    Raises:
        DataError: the samples do not fit the model.
        ModelError: the model fails.
    """
    watched = calibration.open(with_outputs(model, tensors))
    inputs = {spec.name for spec in watched.inputs}
    made = [tensor for tensor in tensors if tensor not in inputs]
    fixed = fixed_batch(watched)
    for feeds, count in calibration.feed(watched, batch_size):
        found = dict(zip(made, watched.run(feeds, made), strict=True)) | feeds
        for tensor in tensors:
            found[tensor] = _without_padding(found[tensor], count, fixed)
        yield found, count


def with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of the model whose outputs are those of `tensors` that are not its inputs.

    A run of it holds on to these tensors and to no other: onnxruntime keeps every output of a model until the run
    ends, whether it was asked for or not.
    """
    inputs = {value.name for value in model.graph.input}
    known = {value.name: value for value in model.graph.output}
    watched = without_outputs(model)
    wanted = [known.get(t, helper.make_empty_tensor_value_info(t)) for t in tensors if t not in inputs]
    watched.graph.output.extend(wanted or model.graph.output)
    return watched


def without_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of the model with no outputs, to be given others."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    return copy


def share_out(
    model: onnx.ModelProto, tensors: Sequence[str], calibration: Calibration, most_bytes: int
) -> tuple[int, list[list[str]]]:
    """Return how many samples to take at a time, and which tensors together, so that they fit in `most_bytes`.

    Args:
        model: With shapes and types inferred.
        tensors: Names of float32 tensors, in the order of the graph.
        calibration: Whose first sample is run, to learn how large the tensors are.
        most_bytes: The bound. A larger tensor is alone in its group.

    Returns:
        The number of samples, and the groups; there is more than one only if not even one sample fits.
    """
    measured = onnx.ModelProto()
    measured.CopyFrom(model)
    outputs = [_SIZE + tensor for tensor in tensors]
    for tensor, output in zip(tensors, outputs, strict=True):
        measured.graph.node.append(helper.make_node("Size", [tensor], [output]))
        measured.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.INT64, []))
    opened = calibration.open(measured)
    feeds, _ = next(feed(opened, calibration.samples, 1, 1))
    sizes = [4 * int(size.item()) for size in opened.run(feeds, outputs)]
    rows = fixed_batch(opened) or max(1, min(calibration.batch_size, most_bytes // max(sum(sizes), 1)))
    factor = 1 if fixed_batch(opened) else rows
    return rows, list(_grouped(tensors, [factor * size for size in sizes], most_bytes))


def _grouped(names: Sequence[str], sizes: Sequence[int], most: int) -> Iterator[list[str]]:
    group: list[str] = []
    taken = 0
    for name, size in zip(names, sizes, strict=True):
        if group and taken + size > most:
            yield group
            group, taken = [], 0
        group.append(name)
        taken += size
    if group:
        yield group


def _without_padding(values: NDArray[np.float32], count: int, fixed: int | None) -> NDArray[np.float32]:
    """Return the part of a tensor that stems from the first `count` samples, where its first axis is the batch's."""
    if fixed is None or values.ndim == 0 or len(values) % fixed:
        return values
    return values[: len(values) // fixed * count]
