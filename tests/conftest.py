"""Small things that many tests need."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def pytest_configure() -> None:
    """Keep the parallel workers of the suite from fighting over the cores."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def needed() -> Callable[[str, Path], Path]:
    """Give the path of what a machine may lack, or skip; fail if `EDGEKD_REQUIRE` (comma separated) names it."""

    def find(name: str, path: Path) -> Path:
        if not path.exists():
            required = name in os.environ.get("EDGEKD_REQUIRE", "").split(",")
            (pytest.fail if required else pytest.skip)(f"{name!r} is not here: no {path}")
        return path

    return find


def conv_net(*, batch: int | str = "batch", size: int = 8, classes: int = 4, seed: int = 0) -> onnx.ModelProto:
    """Return Conv-ReLU-Conv-Add-ReLU-GlobalAveragePool-Flatten-Gemm on (N, 3, size, size) images."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "b1": rng.normal(0, 0.1, 8),
        "w2": rng.normal(0, 0.15, (8, 8, 3, 3)),
        "b2": rng.normal(0, 0.1, 8),
        "w3": rng.normal(0, 0.5, (classes, 8)),
        "b3": rng.normal(0, 0.1, classes),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["a"], "add"),
        helper.make_node("Relu", ["a"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def make_conv_net() -> Callable[..., onnx.ModelProto]:
    return conv_net


@pytest.fixture
def images() -> np.ndarray:
    """Return 64 inputs of shape (3, 8, 8), float32, each of a colour of its own."""
    rng = np.random.default_rng(1)
    return (rng.normal(0, 1, (64, 3, 8, 8)) + rng.normal(0, 1.5, (64, 3, 1, 1))).astype(np.float32)
