"""Calibration: the range of every activation, from real samples, in memory that does not grow with their number.

The smallest and largest value are taken inside the model itself, by ReduceMin and ReduceMax behind every
activation, so that a batch leaves two numbers for each. Minimum and maximum do not depend on how samples are
batched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from edgekd.errors import ModelError
from edgekd.progress import SILENT, Progress
from edgekd.runtime import feed, open_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekd.data.samples import Samples

Ranges = dict[str, tuple[float, float]]
_PREFIX = "edgekd.range."


def activations(model: onnx.ModelProto) -> list[str]:
    """Return the names of the float32 activations of the main graph, inputs and outputs included, in order.

    Requires: shapes and types inferred.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    known = [*graph.input, *graph.value_info, *graph.output]
    floats = {value.name for value in known if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    constants = {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    produced = [name for node in graph.node for name in node.output]
    ordered = dict.fromkeys([value.name for value in graph.input] + produced)
    return [name for name in ordered if name in floats - weights - constants]


def minmax_ranges(
    model: onnx.ModelProto,
    samples: Samples,
    *,
    name: str,
    limit: int | None = None,
    batch_size: int = 16,
    progress: Progress = SILENT,
) -> Ranges:
    """Return the smallest and largest value of every float32 activation over the samples.

    Args:
        model: With shapes and types inferred.
        samples: Calibration data.
        name: What messages call the model.
        limit: At most so many samples.
        batch_size: Samples at a time, where the model leaves it open.
        progress: Listener.

    Raises:
        DataError: the samples do not fit the model.
        ModelError: the model fails, or an activation is NaN or infinite.
    """
    names = activations(model)
    watched = open_model(_with_reductions(model, names).SerializeToString(), name=name)
    outputs = [_PREFIX + kind + tensor for tensor in names for kind in ("min.", "max.")]
    total = min(len(samples), limit or len(samples))
    low = np.full(len(names), np.inf)
    high = np.full(len(names), -np.inf)
    with progress.task("calibrate", total) as task:
        for feeds, count in feed(watched, samples, batch_size, limit):
            found = np.array([value.item() for value in watched.run(feeds, outputs)])
            if not np.isfinite(found).all():
                bad = names[int(np.flatnonzero(~np.isfinite(found))[0]) // 2]
                raise ModelError(f"{name}: the activation {bad!r} is NaN or infinite for samples of {samples.name}")
            low, high = np.minimum(low, found[0::2]), np.maximum(high, found[1::2])
            task.advance(count)
    return {tensor: (float(a), float(b)) for tensor, a, b in zip(names, low, high, strict=True)}


def _with_reductions(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for tensor in names:
        for operator, kind in (("ReduceMin", "min."), ("ReduceMax", "max.")):
            output = _PREFIX + kind + tensor
            watched.graph.node.append(helper.make_node(operator, [tensor], [output], keepdims=0))
            watched.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, []))
    return watched
