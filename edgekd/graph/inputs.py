"""Lead other inputs into a model: normalise them anew, change their colour order or layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import ModelError
from edgekd.graph.traces import subgraphs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LED_IN = "edgekd.inputs."  # names of what is added begin so


def only_input(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    """Return a model's one input.

    Raises:
        ModelError: it has several, or one that does not hold floats.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs: list[onnx.ValueInfoProto] = [value for value in model.graph.input if value.name not in constants]
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16)
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type not in kinds:
        found = ", ".join(value.name for value in inputs)
        raise ModelError(f"{name}: expected one input of floats, found: {found or 'none'}")
    return inputs[0]


def lead_in(
    model: onnx.ModelProto,
    name: str,
    *,
    shape: Sequence[int],
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    channels: Sequence[int] | None = None,
    channels_last: bool = False,
) -> None:
    """Give a model a new input, from which the old one is computed: `(input * scale + shift)`, then reordered.

    Requires: one input of floats (`only_input`), images of (N, channels, height, width) or, with `channels_last`,
    (N, height, width, channels).
    Ensures: the new input is float32 (N, *shape) in the order (channels, height, width); the values behind the old
    one keep their names, unless one of them is called like the new input.

    Args:
        model: Changed in place.
        name: Of the new input.
        shape: (channels, height, width).
        scale: Shape (channels,).
        shift: Shape (channels,).
        channels: The old input's channels, as numbers of the new one's; None: the same order.
        channels_last: The old input has its channels last.
    """
    graph = model.graph
    old = only_input(model, "model")
    fresh = f"{LED_IN}{name}"
    _rename(graph, name, fresh)
    target = old.name
    batch = old.type.tensor_type.shape.dim[0]
    extent: int | str = batch.dim_value or batch.dim_param or "batch"
    element = old.type.tensor_type.elem_type
    graph.input.remove(old)
    graph.input.insert(0, helper.make_tensor_value_info(name, TensorProto.FLOAT, [extent, *shape]))
    steps = _steps(scale, shift, channels, channels_last=channels_last, element=element)
    value, nodes = name, []
    for number, (kind, constant, attributes) in enumerate(steps):
        inputs, output = [value], target if number == len(steps) - 1 else f"{LED_IN}{number}"
        if constant is not None:
            inputs.append(f"{LED_IN}{number}.{kind}")
            graph.initializer.append(numpy_helper.from_array(constant, inputs[1]))
        nodes.append(helper.make_node(kind, inputs, [output], f"{LED_IN}{kind}.{number}", **attributes))
        value = output
    for number, node in enumerate(nodes):
        graph.node.insert(number, node)


def _steps(
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    channels: Sequence[int] | None,
    *,
    channels_last: bool,
    element: int,
) -> list[tuple[str, NDArray[np.generic] | None, dict[str, Any]]]:
    """Return operator, constant and attributes of what lies between the new input and the old one."""
    steps: list[tuple[str, NDArray[np.generic] | None, dict[str, Any]]] = []
    if (scale != 1).any():
        steps.append(("Mul", scale.reshape(1, -1, 1, 1), {}))
    if shift.any():
        steps.append(("Add", shift.reshape(1, -1, 1, 1), {}))
    if channels is not None:
        steps.append(("Gather", np.asarray(channels, dtype=np.int64), {"axis": 1}))
    if channels_last:
        steps.append(("Transpose", None, {"perm": [0, 2, 3, 1]}))
    if element != TensorProto.FLOAT:
        steps.append(("Cast", None, {"to": element}))
    return steps or [("Identity", None, {})]


def reorder_classes(model: onnx.ModelProto, order: Sequence[int], name: str) -> None:
    """Replace the first output (N, classes, ...) by one (N, classes) whose column i is the old column `order[i]`.

    Ensures: the new output is called `name`; the old one stays as a value inside the graph.
    """
    graph = model.graph
    old = graph.output[0]
    _rename(graph, name, f"{LED_IN}{name}")
    source = old.name
    graph.initializer.append(numpy_helper.from_array(np.asarray(order, dtype=np.int64), f"{LED_IN}classes"))
    flat = f"{LED_IN}flat"
    graph.node.append(helper.make_node("Flatten", [source], [flat], f"{LED_IN}Flatten.classes", axis=1))
    graph.node.append(
        helper.make_node("Gather", [flat, f"{LED_IN}classes"], [name], f"{LED_IN}Gather.classes", axis=1)
    )
    new = helper.make_tensor_value_info(name, old.type.tensor_type.elem_type, ["batch", len(order)])
    graph.output.remove(old)
    graph.output.insert(0, new)


def _rename(graph: onnx.GraphProto, name: str, fresh: str) -> None:
    """Call a value otherwise, wherever it is made or read, sub-graphs too."""
    for node in graph.node:
        for names in (node.input, node.output):
            for number, value in enumerate(names):
                if value == name:
                    names[number] = fresh
        for inner in subgraphs(node):
            _rename(inner, name, fresh)
    for entry in (*graph.initializer, *graph.value_info, *graph.input, *graph.output):
        if entry.name == name:
            entry.name = fresh
