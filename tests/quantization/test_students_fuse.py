"""Our own architectures run in integers from the first layer to the last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import edgekd
from edgekd.models.registry import build

if TYPE_CHECKING:
    from pathlib import Path

CONTRACT = edgekd.Contract(
    layout="NCHW", shape=(3, 16, 16), colour="RGB", mean=(0.5,) * 3, std=(0.25,) * 3, labels=tuple("abcd")
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenetv2-x0.25", {"QGemm": 1, "QLinearAdd": 10, "QLinearConv": 53, "QLinearGlobalAveragePool": 1}),
        ("resnet8", {"QGemm": 1, "QLinearAdd": 3, "QLinearConv": 9, "QLinearGlobalAveragePool": 1}),
        ("wrn-10-1", {"QGemm": 1, "QLinearAdd": 3, "QLinearConv": 13, "QLinearGlobalAveragePool": 1}),
    ],
)
def test_no_conversion_survives_but_that_of_the_input(name: str, expected: dict[str, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    edgekd.export(build(name, classes=4, shape=(3, 16, 16)).eval(), tmp_path / "net.onnx", contract=CONTRACT)
    images = np.random.default_rng(0).normal(0, 2, (8, 3, 16, 16)).astype(np.float32)
    result = edgekd.quantize(tmp_path / "net.onnx", {"input": images}, None, target="x86-avx2")
    assert result.audit.quantized == expected
    assert (result.audit.quantize, result.audit.dequantize, result.audit.islands) == (1, 0, ())
    assert result.fp32_layers == ()
