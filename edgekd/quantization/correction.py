"""Biases that make good what rounding the weights does to a layer's mean output.

Rounding changes the weights by e, and so the mean output by e times the mean input: a constant, which the bias can
take back (Nagel et al. 2019, arXiv:1906.04721, section 4.2). It is computed from the layer's inputs, and so before
any Relu or Clip: comparing what onnxruntime's fused layers give would compare behind the clip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekd.quantization.weights import LARGEST_BIAS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekd.quantization.layers import Layer
    from edgekd.quantization.moments import Moments
    from edgekd.quantization.weights import QuantizedWeights


def corrected_bias(
    layer: Layer, quantized: QuantizedWeights, moments: Moments, input_scale: float
) -> NDArray[np.float32]:
    """Return the bias with which the layer's mean output over the calibration samples is that of fp32 weights.

    A bias that would not fit in the steps of its scale is left as it was.

    Args:
        layer: In fp32.
        quantized: Its 8-bit weights.
        moments: Of its inputs.
        input_scale: What one step of its activations is worth.

    Returns:
        float32, `(channels,)`.
    """
    rows = layer.layout.view(quantized.values).reshape(layer.rows.shape)
    worth = rows * quantized.scales.reshape(*rows.shape[:2], 1).astype(np.float64)
    change = np.einsum("gol,gl->go", layer.rows - worth, moments.mean).reshape(-1)
    corrected = layer.bias_values + change
    fits = np.abs(corrected) <= LARGEST_BIAS * input_scale * quantized.scales.astype(np.float64)
    return np.where(fits, corrected, layer.bias_values).astype(np.float32)
