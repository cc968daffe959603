from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgekd.data import ArraySamples
from edgekd.errors import DataError, ModelError
from edgekd.graph.folding import fold
from edgekd.quantization.calibration import activations, minmax_ranges

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx


@pytest.fixture
def model(make_conv_net: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    return fold(make_conv_net().SerializeToString(), "net")


def test_every_float_activation_is_watched(model: onnx.ModelProto) -> None:
    names = activations(model)
    assert names[0] == "input"
    assert {"c1", "r1", "c2", "a", "r2", "logits"} <= set(names)
    assert not {"w1", "b1"} & set(names)


def test_ranges_are_those_of_all_samples(model: onnx.ModelProto, images: np.ndarray) -> None:
    from edgekd.runtime import open_model

    ranges = minmax_ranges(model, ArraySamples({"input": images}), name="net")
    logits = open_model(model.SerializeToString()).run({"input": images}, ["logits"])[0]
    assert ranges["input"] == (images.min(), images.max())
    assert ranges["logits"] == pytest.approx((logits.min(), logits.max()), rel=1e-5)
    assert ranges["r1"][0] == 0


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64, 100])
def test_ranges_do_not_depend_on_the_batch_size(model: onnx.ModelProto, images: np.ndarray, batch_size: int) -> None:
    samples = ArraySamples({"input": images})
    expected = minmax_ranges(model, samples, name="net")
    found = minmax_ranges(model, samples, name="net", batch_size=batch_size)
    assert found.keys() == expected.keys()
    assert found["input"] == expected["input"]
    for name, values in found.items():
        assert values == pytest.approx(expected[name], rel=1e-5, abs=1e-6)


def test_a_limit_is_kept(model: onnx.ModelProto, images: np.ndarray) -> None:
    images[10:] *= 100
    limited = minmax_ranges(model, ArraySamples({"input": images}), name="net", limit=10)
    assert limited["input"] == (images[:10].min(), images[:10].max())


def test_a_fixed_batch_is_served_whole(make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray) -> None:
    fixed = fold(make_conv_net(batch=5).SerializeToString(), "net")
    ranges = minmax_ranges(fixed, ArraySamples({"input": images}), name="net")
    assert ranges["input"] == (images.min(), images.max())


def test_an_activation_that_overflows_is_named(model: onnx.ModelProto, images: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"the activation '\w+' is NaN or infinite"):
        minmax_ranges(model, ArraySamples({"input": images * np.float32(4e37)}), name="net")


def test_samples_that_do_not_fit_are_refused(model: onnx.ModelProto, images: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"takes 'input' of shape .*8, 8"):
        minmax_ranges(model, ArraySamples({"input": images[:, :, :4]}), name="net")
    with pytest.raises(DataError, match="takes an input 'input'"):
        minmax_ranges(model, ArraySamples({"inptu": images}), name="net")
