"""Passes that let onnxruntime use its fast kernels in a transformer: the same values, in another form."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from edgekd.graph.arithmetic import constants_to_sums_and_products
from edgekd.graph.gelu import gelu_to_fusible
from edgekd.graph.residual import residuals_to_sums
from edgekd.runtime import open_model

if TYPE_CHECKING:
    from pathlib import Path

CONSTANTS = (
    "float r = {1.4142135}, float one = {1}, float half = {0.5}, float[4] g = {1,2,3,4}, float[4] b = {4,3,2,1}"
)


def parse(*nodes: str) -> onnx.ModelProto:
    text = "\n".join(nodes)
    signature = "(float[2, 3, 4] x, float[2, 3, 4] z) => (float[2, 3, 4] y)"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]> g {signature} <{CONSTANTS}> {{ {text} }}'
    )
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def run(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    x, z = np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype(np.float32)
    return open_model(model.SerializeToString()).run({"x": x, "z": z})[0]


def fused(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Return the operators that onnxruntime runs."""
    path = folder / "optimized.onnx"
    open_model(model.SerializeToString(), optimized_path=path, optimization="all")
    return Counter(node.op_type for node in onnx.load(path).graph.node)


GELU = ("a = Add(x, z)", "d = Div(a, r)", "e = Erf(d)", "t = Add(e, one)", "h = Mul(half, t)", "y = Mul(a, h)")


def test_a_gelu_as_torch_writes_it_becomes_one_kernel(tmp_path: Path) -> None:
    model = parse(*GELU)
    before = run(model)
    assert fused(model, tmp_path)["Erf"] == 1
    assert gelu_to_fusible(model) == 1
    assert constants_to_sums_and_products(model) == 0  # the division by which onnxruntime knows it stays
    assert not {"Erf", "Div"} & set(fused(model, tmp_path))
    np.testing.assert_allclose(run(model), before, rtol=1e-5, atol=1e-6)
    assert gelu_to_fusible(model) == 0


@pytest.mark.parametrize(
    "nodes",
    [
        (*GELU[:4], "h = Mul(one, t)", GELU[5]),
        (*GELU[:2], "e = Tanh(d)", *GELU[3:]),
        (*GELU[:5], "m = Mul(a, h)", "y = Add(m, h)"),
    ],
    ids=["another factor", "no Erf", "read twice"],
)
def test_what_is_no_gelu_stays(nodes: tuple[str, ...]) -> None:
    model = parse(*nodes)
    content = model.SerializeToString()
    assert gelu_to_fusible(model) == 0
    assert model.SerializeToString() == content


NORMALISE = "y = LayerNormalization <axis = -1> (s, g, b)"


@pytest.mark.parametrize(
    ("nodes", "terms"),
    [
        (("c = Add(x, b)", "s = Add(c, z)", NORMALISE), ["x", "z", "b"]),
        (("c = Add(b, x)", "s = Add(z, c)", NORMALISE), ["x", "z", "b"]),
        (("s = Add(z, x)", NORMALISE), ["z", "x"]),
        (
            ("c = Add(x, b)", "s = Add(c, z)", "n = LayerNormalization(s, g, b)", "t = Add(n, s)", "y = Add(t, c)"),
            None,
        ),
    ],
    ids=["bias first", "bias in front", "no bias", "bias read twice"],
)
def test_a_residual_becomes_a_sum(nodes: tuple[str, ...], terms: list[str] | None, tmp_path: Path) -> None:
    model = parse(*nodes)
    before = run(model)
    assert residuals_to_sums(model) == 1
    found = next(node for node in model.graph.node if node.op_type == "Sum")
    assert [*found.input] == (terms or ["c", "z"])
    assert "SkipLayerNormalization" not in fused(model, tmp_path)
    np.testing.assert_allclose(run(model), before, rtol=1e-5, atol=1e-5)


def test_a_bias_alone_is_no_residual() -> None:
    assert residuals_to_sums(parse("s = Add(x, b)", NORMALISE)) == 0
