"""What a layer sees: the second moments and the mean of its inputs, summed sample by sample.

Rounding weights well needs X^T X, where each row of X is what one output position multiplies its weights with.
Summing it over samples takes memory that does not depend on their number, and a sum in float64 depends on how
they are batched by its last digits only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.quantization.watching import watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx
    from numpy.typing import NDArray

    from edgekd.quantization.layers import Layer
    from edgekd.quantization.watching import Calibration

POSITIONS = 64  # of a sample and layer, evenly spaced: neighbouring pixels say much the same


@dataclass(kw_only=True, eq=False)
class Moments:
    """Sums over the input rows of one layer, by group.

    Attributes:
        square: X^T X, float64, `(groups, length, length)`.
        total: Column sums of X, float64, `(groups, length)`.
        count: Rows summed.
    """

    square: NDArray[np.float64]
    total: NDArray[np.float64]
    count: int = 0

    @classmethod
    def empty(cls, layer: Layer) -> Moments:
        """Return sums over nothing."""
        length = layer.layout.length
        return cls(square=np.zeros((layer.groups, length, length)), total=np.zeros((layer.groups, length)))

    def add(self, rows: NDArray[np.float32]) -> None:
        """Add input rows, float32 of shape `(groups, rows, length)`."""
        self.square += rows.transpose(0, 2, 1) @ rows
        self.total += np.ones(rows.shape[1], np.float32) @ rows
        self.count += rows.shape[1]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each column, `(groups, length)`."""
        return self.total / max(self.count, 1)

    @property
    def power(self) -> NDArray[np.float64]:
        """Mean square of each column, `(groups, length)`."""
        power: NDArray[np.float64] = np.einsum("gii->gi", self.square) / max(self.count, 1)
        return power


def collect_moments(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    calibration: Calibration,
) -> dict[str, Moments]:
    """Return the moments of every layer's input over the samples, by layer name.

    Args:
        model: The fp32 model that the layers are of, shapes and types inferred.
        layers: Which ones.
        calibration: What the model runs over.

    Raises:
        DataError: the samples do not fit the model.
        ModelError: the model fails.
    """
    moments = {layer.name: Moments.empty(layer) for layer in layers}
    with calibration.progress.task("look at layer inputs", calibration.count) as task:
        inputs = list(dict.fromkeys(layer.input for layer in layers))
        for found, count in watch(model, inputs, calibration):
            for layer in layers:
                moments[layer.name].add(input_rows(layer, found[layer.input]))
            task.advance(count)
    return moments


def input_rows(layer: Layer, activations: NDArray[np.float32], positions: int = POSITIONS) -> NDArray[np.float32]:
    """Return what a layer multiplies its weights with, in kernel order.

    Args:
        layer: A convolution, or a matrix product.
        activations: float32, `(samples, channels, *size)` for a convolution, else `(..., length)`.
        positions: At most so many output positions of a sample, evenly spaced.

    Returns:
        float32, `(groups, rows, length)`; padding is zero.
    """
    if layer.op_type != "Conv":
        flat = activations.reshape(len(activations), -1, layer.layout.length)
        return flat[:, _spaced(flat.shape[1], positions)].reshape(1, -1, layer.layout.length)
    windows = _windows(layer, activations)
    sizes = windows.shape[2 : 2 + _dimensions(layer)]
    chosen = np.unravel_index(_spaced(int(np.prod(sizes)), positions), sizes)
    everything: tuple[Any, ...] = (slice(None), slice(None))
    taken = windows[(*everything, *chosen)]  # samples, channels, positions, *kernel
    samples, channels, count = taken.shape[:3]
    grouped = taken.reshape(samples, layer.groups, channels // layer.groups, count, -1)
    return np.ascontiguousarray(grouped.transpose(1, 0, 3, 4, 2)).reshape(
        layer.groups, samples * count, layer.layout.length
    )


def _windows(layer: Layer, activations: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a view of shape `(samples, channels, *output size, *kernel)` of the padded activations."""
    dimensions = _dimensions(layer)
    kernel = layer.layout.shape[2:]
    strides, dilations, pads = conv_geometry(layer, activations.shape[2:])
    padded = np.pad(activations, [(0, 0), (0, 0), *pads])
    reach = [dilation * (extent - 1) + 1 for extent, dilation in zip(kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(2, 2 + dimensions)))
    steps = [slice(None, None, stride) for stride in strides]
    holes = [slice(None, None, dilation) for dilation in dilations]
    view: NDArray[np.float32] = windows[(slice(None), slice(None), *steps, *holes)]
    return view


def conv_geometry(
    layer: Layer, size: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]:
    """Return strides, dilations and (before, after) padding of a convolution on an input of that size."""
    dimensions = _dimensions(layer)
    strides = tuple(layer.attributes.get("strides", [1] * dimensions))
    dilations = tuple(layer.attributes.get("dilations", [1] * dimensions))
    mode = layer.attributes.get("auto_pad", b"NOTSET").decode()
    if mode in ("NOTSET", ""):
        pads = layer.attributes.get("pads", [0] * 2 * dimensions)
        return strides, dilations, list(zip(pads[:dimensions], pads[dimensions:], strict=True))
    if mode == "VALID":
        return strides, dilations, [(0, 0)] * dimensions
    both = []
    kernel = layer.layout.shape[2:]
    for extent, stride, dilation, width in zip(size, strides, dilations, kernel, strict=True):
        missing = max(0, (-(-extent // stride) - 1) * stride + dilation * (width - 1) + 1 - extent)
        half = missing // 2
        both.append((half, missing - half) if mode == "SAME_UPPER" else (missing - half, half))
    return strides, dilations, both


def _dimensions(layer: Layer) -> int:
    return len(layer.layout.shape) - 2


def _spaced(count: int, most: int) -> NDArray[np.int64]:
    """Return up to `most` of the numbers below `count`, evenly spaced."""
    if count <= most:
        return np.arange(count)
    return (np.arange(most) * count) // most
