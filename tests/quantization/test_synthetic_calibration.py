"""Calibration without data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from listening import Heard

from edgekd import quantize
from edgekd.data import Contract
from edgekd.quantization.synthetic import synthetic_samples
from edgekd.runtime import open_model

if TYPE_CHECKING:
    from collections.abc import Callable


CONTRACT = Contract(
    layout="NCHW", shape=(3, 8, 8), colour="RGB", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), input="x"
)


@pytest.fixture
def model(make_conv_net: Callable[..., onnx.ModelProto]) -> bytes:
    net = make_conv_net()
    net.metadata_props.add(key="edgekd.contract", value=json.dumps(CONTRACT.to_json()))
    return net.SerializeToString()


def test_a_file_calibrated_on_made_up_images_works_on_real_ones(model: bytes, images: np.ndarray) -> None:
    notes = Heard()
    result = quantize(model, "synthetic", None, evaluation={"input": images}, progress=notes)
    assert result.evaluation is not None
    assert result.evaluation.agreement is not None
    assert result.evaluation.agreement > 0.8
    assert result.synthetic
    assert result.samples == 128
    assert notes.notes[0].startswith("calibration: made-up samples, not data")
    assert quantize(model, "synthetic", None).content == result.content
    assert quantize(model, "synthetic", None, samples=16).samples == 16
    assert not quantize(model, {"input": images}, None).synthetic


def test_a_contract_gives_images_for_the_models_input(model: bytes) -> None:
    samples = synthetic_samples(open_model(model), count=5)
    assert len(samples) == 5
    assert samples.name == "synthetic images"
    batch = samples.batch([0, 1])
    assert {name: array.shape for name, array in batch.items()} == {"input": (2, 3, 8, 8)}


def test_without_a_contract_inputs_are_as_declared() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (int64[N, S] ids, int64[N, S] attention_mask, float[N, 3] x) => (float[N, 3] y, int64[N, S] z)
        { y = Relu(x) z = Add(ids, attention_mask) }"""
    )
    batch = synthetic_samples(open_model(model.SerializeToString()), count=4).batch([0, 1, 2, 3])
    assert batch["ids"].shape == batch["attention_mask"].shape == (4, 64)
    assert set(np.unique(batch["ids"])) == {0, 1}
    assert (batch["attention_mask"] == 1).all()
    assert batch["x"].shape == (4, 3)
    assert batch["x"].dtype == np.float32
    assert batch["x"].min() < 0 < batch["x"].max()
