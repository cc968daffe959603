"""The input contract: what it computes, how it travels, what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgekd.data import Contract, contract_of_metadata, read_contract
from edgekd.errors import DataError, ModelError

if TYPE_CHECKING:
    from pathlib import Path

RGB = {"colour": "RGB", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
COLOUR = Contract(layout="NCHW", shape=(3, 4, 6), labels=("a", "b"), input="x", **RGB)
GRAY = Contract(layout="NHWC", shape=(4, 6, 1), colour="gray", mean=(0.5,), std=(0.2,))
ARRAY = Contract(layout="as-is", shape=(7,))
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_pixels_become_what_the_model_takes(layout: str, colour: str) -> None:
    shape = (3, 4, 6) if layout == "NCHW" else (4, 6, 3)
    contract = Contract(layout=layout, shape=shape, **{**RGB, "colour": colour})
    expected = np.empty((5, *shape))
    for channel in range(3):
        pixels = PIXELS[..., 2 - channel if colour == "BGR" else channel] / 255
        values = (pixels - RGB["mean"][channel]) / RGB["std"][channel]
        expected[(slice(None), channel) if layout == "NCHW" else (..., channel)] = values
    found = contract.prepare(PIXELS)
    assert (found.dtype, found.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert (contract.size, contract.channels) == ((4, 6), 3)


@pytest.mark.parametrize("contract", [COLOUR, GRAY, ARRAY])
def test_it_travels_as_json(contract: Contract, tmp_path: Path) -> None:
    text = json.dumps(contract.to_json())
    (tmp_path / "contract.json").write_text(text)
    assert read_contract(tmp_path / "contract.json") == contract
    assert contract_of_metadata({"edgekd.contract": text}, "m.onnx") == contract
    assert contract_of_metadata({}, "m.onnx") is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layout": "CHWN"}, "layout must be one of NCHW, NHWC, as-is, found 'CHWN'"),
        ({"colour": "red"}, "colour must be one of RGB, BGR, gray"),
        ({"size": [4]}, "not a contract"),
        ({"size": [4, 0]}, r"must be a positive whole number, found \[3, 4, 0\]"),
        ({"size": [4.5, 6]}, "must be a positive whole number"),
        ({"mean": [0.5]}, "needs 3 channels and as many means"),
        ({"size": [True, True]}, "must be a positive whole number"),
        ({"size": [10**9, 10**9]}, r"has more than 67,108,864 values"),
        ({"std": [0.2, 0.3, 0]}, "std positive"),
        ({"std": [0.2, 0.3, 1e-300]}, "std positive"),
        ({"mean": [0.2, 0.3, 10**400]}, "mean must be finite"),
        ({"mean": ["a", "b", "c"]}, "mean must be finite"),
        ({"input": 3}, "input must be the name of the model's input, found 3"),
        ({"input": ""}, "input must be the name of the model's input, found ''"),
        ({"output": None}, "output must be the name of the model's output, found None"),
        ({"input": "x", "output": "x"}, "must have different names, found 'x' for both"),
        ({"labels": "ab"}, "labels must be a list of class names, found 'ab'"),
        ({"labels": [0, 1]}, "labels must be a list of class names"),
        ({"maen": [1]}, r"unknown key 'maen' in the contract \(perhaps you meant 'mean'\?\)"),
    ],
)
def test_what_it_refuses(changed: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "contract.json"
    path.write_text(json.dumps({**COLOUR.to_json(), **changed}))
    with pytest.raises(DataError, match=message) as caught:
        read_contract(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(ModelError, match=message):
        contract_of_metadata({"edgekd.contract": path.read_text()}, "m.onnx")


def test_what_is_no_contract(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such contract file"):
        read_contract(tmp_path / "none.json")
    for text, message in (("{", "not JSON"), ("[]", "a contract is a JSON object, found list")):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(DataError, match=message):
            read_contract(tmp_path / "c.json")
    with pytest.raises(ModelError, match="the contract in its metadata is not JSON"):
        contract_of_metadata({"edgekd.contract": "{"}, "m.onnx")


def test_json_that_is_too_deep(tmp_path: Path) -> None:
    (tmp_path / "contract.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="not JSON"):
        read_contract(tmp_path / "contract.json")
    with pytest.raises(ModelError, match="not JSON"):
        contract_of_metadata({"edgekd.contract": "[" * 100_000}, "m.onnx")
