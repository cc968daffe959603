"""Weights in float16, arithmetic in float32: half the file, and nearly the answers of the fp32 model on every CPU.

onnxruntime's CPU kernels compute in float32, so a model that is float16 throughout would convert at every operator.
Here a Cast stands behind each stored weight, which onnxruntime folds when it opens the file: it then runs as fast as
the fp32 model and takes as much memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekd.errors import ModelError
from edgekd.graph.metadata import cap_ir_version, write_metadata
from edgekd.graph.names import name_nodes
from edgekd.graph.traces import strip_traces
from edgekd.quantization.job import Job
from edgekd.quantization.layers import OPERATORS

if TYPE_CHECKING:
    from edgekd.quantization.result import Quantized
    from edgekd.targets import Target

FEWEST_VALUES: Final = 128  # a Cast takes some hundred bytes of the file itself
LARGEST: Final = float(np.finfo(np.float16).max)


class HalfPrecision(Job):
    """One model, from which a file with float16 weights is made. It is the same for every target."""

    operators = OPERATORS

    def make(self, target: Target, path: str | None) -> Quantized:
        """Return the file, unwritten; `path` is what its evaluation calls it.

        Raises:
            ModelError: none of its weights can be stored in float16.
        """
        path = path or self._name
        model = onnx.ModelProto()
        model.CopyFrom(self._folded)
        name_nodes(model)
        if not store_half(model):
            raise ModelError(
                f"{self._name}: no weights to store in float16: all have fewer than {FEWEST_VALUES} values, or some "
                f"beyond {LARGEST:g}"
            )
        strip_traces(model)
        cap_ir_version(model)
        write_metadata(model, {"edgekd.mode": "fp16", **self._metadata})
        content: bytes = model.SerializeToString(deterministic=True)
        return self._describe(
            content,
            target,
            path,
            effective={"mode": "fp16", "activations": "float32", "weights": "float16"},
            evaluation=self._judge(content, path, self._progress),
            speed=self._timed(content, target, path),
        )


def store_half(model: onnx.ModelProto) -> int:
    """Store float32 weights as float16 with a Cast behind them; they keep their names for whoever reads them.

    Left as they are: tensors of fewer than `FEWEST_VALUES`, such with values that float16 cannot hold, inputs with a
    default, and outputs.

    Requires: nodes named.
    Ensures: weights differ by at most half a step of float16; NaN and infinity stay what they are.

    Returns:
        How many tensors were changed.
    """
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or tensor.name in kept:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < FEWEST_VALUES or np.abs(values).max() > LARGEST:
            continue
        name, half = tensor.name, f"{tensor.name}.float16"
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(helper.make_node("Cast", [half], [name], f"{name}.cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return len(casts)
