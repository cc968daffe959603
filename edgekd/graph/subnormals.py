"""Flush subnormal weights to zero: they mean nothing and slow many CPUs down tenfold and more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgekd.graph.tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_KINDS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


def flush_subnormals(model: onnx.ModelProto) -> int:
    """Set float32 and float16 weights below the smallest normal number to zero, in sub-graphs too.

    Requires: weights inside the file.
    Ensures: no subnormal weight is left; a tensor without one keeps its bytes.

    Returns:
        How many weights were flushed.
    """
    flushed = 0
    for tensor, values in float_weights(model):
        subnormal = _is_subnormal(values)
        count = int(np.count_nonzero(subnormal))
        if count:
            clean = np.where(subnormal, values.dtype.type(0), values)
            tensor.CopyFrom(numpy_helper.from_array(clean, tensor.name))
            flushed += count
    return flushed


def count_subnormals(model: onnx.ModelProto) -> dict[str, int]:
    """Return by the name of a tensor how many of its weights are subnormal; tensors without one are left out.

    Requires: weights in memory.
    """
    counts: dict[str, int] = {}
    for tensor, values in float_weights(model):
        count = int(np.count_nonzero(_is_subnormal(values)))
        if count:
            counts[tensor.name] = counts.get(tensor.name, 0) + count
    return counts


def float_weights(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, NDArray[Any]]]:
    """Yield each float32 and float16 tensor of a model with its values.

    Requires: weights in memory.
    """
    for tensor in tensors(model):
        if tensor.data_type in _KINDS:
            yield tensor, numpy_helper.to_array(tensor)


def _is_subnormal(values: NDArray[Any]) -> NDArray[np.bool_]:
    subnormal: NDArray[np.bool_] = (values != 0) & (np.abs(values) < np.finfo(values.dtype).tiny)
    return subnormal
