"""Calibration without data: made-up samples for a model. A stopgap, and labelled as such wherever its results go."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekd.data.samples import ArraySamples
from edgekd.data.synthetic import synthetic_images
from edgekd.errors import ModelError
from edgekd.inference import fixed_batch, input_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekd.data import Contract
    from edgekd.data.samples import Samples
    from edgekd.runtime import Model, TensorSpec

SYNTHETIC: Final = "synthetic"  # what stands for made-up samples in place of data
SYNTHETIC_WARNING: Final = (
    "made-up samples, not data: the ranges fit no real input. Calibrate on a hundred real samples before you ship it"
)
COUNT: Final = 128
FREE_EXTENT: Final = 64  # of an axis that the model leaves open


def synthetic_samples(model: Model, contract: Contract | None = None, count: int = COUNT, seed: int = 0) -> Samples:
    """Return made-up samples that a model takes.

    A model of images with an input contract gets images (`data/synthetic.py`); any other what its inputs declare:
    floats are normal, integers 0 or 1, masks ones, as `edgekd bench` makes them up; axes left open are 64 long.

    Args:
        model: What they are for.
        contract: How images become its input; by default what its metadata say.
        count: How many.
        seed: Of all that is random.

    Raises:
        ModelError: an input holds no numbers.
    """
    contract = contract or model.contract
    if contract is not None and contract.layout != "as-is" and len(model.inputs) == 1:
        return synthetic_images(replace(contract, input=model.inputs[0].name), count, seed)
    random = np.random.default_rng(seed)
    total = max(count, fixed_batch(model) or 1)
    arrays = {spec.name: _array(spec, total, random, model.name) for spec in model.inputs}
    return ArraySamples(arrays, name="synthetic samples")


def _array(spec: TensorSpec, count: int, random: np.random.Generator, name: str) -> NDArray[Any]:
    dtype = input_dtype(spec)
    if dtype is None:
        raise ModelError(f"{name}: its input {spec.name!r} is {spec.dtype}, for which nothing can be made up")
    shape = [count, *(FREE_EXTENT if extent is None else extent for extent in spec.shape[1:])]
    if dtype.kind == "b" or "mask" in spec.name.lower():
        return np.ones(shape, dtype)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)
