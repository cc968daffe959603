"""Small real ONNX models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Shape = list[int | str]


class MakeModel(Protocol):
    def __call__(self, name: str = "model.onnx", *, width: int = 16, batch: int | str = "batch") -> Path: ...


class MakeEcho(Protocol):
    def __call__(self, inputs: Sequence[tuple[str, int, Shape]]) -> Path: ...


def _save(path: Path, graph: onnx.GraphProto) -> Path:
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """A function that writes a model of one MatMul: x (batch, width) -> y (batch, width)."""

    def make(name: str = "model.onnx", *, width: int = 16, batch: int | str = "batch") -> Path:
        values = np.random.default_rng(0).standard_normal((width, width)).astype(np.float32)
        weight = numpy_helper.from_array(values, "w")
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, width])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        return _save(tmp_path / name, helper.make_graph([node], "g", [x], [y], [weight]))

    return make


@pytest.fixture
def make_echo(tmp_path: Path) -> MakeEcho:
    """A function that writes a model which gives back its inputs, each (name, element type, shape)."""

    def make(inputs: Sequence[tuple[str, int, Shape]]) -> Path:
        nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _, _ in inputs]
        ins = [helper.make_tensor_value_info(*declared) for declared in inputs]
        outs = [helper.make_tensor_value_info(f"{name}_out", kind, shape) for name, kind, shape in inputs]
        return _save(tmp_path / "echo.onnx", helper.make_graph(nodes, "g", ins, outs))

    return make


@pytest.fixture
def unrunnable_model(tmp_path: Path) -> Path:
    """A model that loads and cannot run: it gathers the row `ids` of a table with two rows."""
    table = numpy_helper.from_array(np.zeros((2, 3), np.float32), "table")
    offset = numpy_helper.from_array(np.array(100, np.int64), "offset")
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("Add", ["ids", "offset"], ["row"]),
        helper.make_node("Gather", ["table", "row"], ["y"]),
    ]
    return _save(tmp_path / "broken.onnx", helper.make_graph(nodes, "g", [ids], [y], [table, offset]))
