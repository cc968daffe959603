"""Int16 saturation: which layers of an INT8 file can suffer it, read off the integer weights alone.

On x86 without VNNI, onnxruntime multiplies u8 activations by s8 weights with VPMADDUBSW (MLAS:
`core/mlas/lib/x86_64/QgemmU8S8KernelAvx2.S`, `QgemvU8S8KernelAvx2.S`, `ConvSymKernelAvx2.S` and their AVX512 forms).
The instruction multiplies, adds each two neighbouring products and *saturates the sum to 16 bits* (Intel 64 and IA-32
Architectures Software Developer's Manual, volume 2, PMADDUBSW); only then does VPMADDWD widen it. VNNI and ARM's dot
product accumulate in 32 bits: there the same file gives other answers.

Which pairs saturate. With activations a0, a1 in 0..255 and weights w0, w1 in -128..127,

    255 * (max(w0, 0) + max(w1, 0))  is the largest   w0 * a0 + w1 * a1  and must not exceed  32767,
    255 * (min(w0, 0) + min(w1, 0))  is the smallest                     and must not go below -32768.

Both come to the same: the weights of one sign in a pair sum up to more than 128 in magnitude. Opposite signs cancel
and never saturate, and neither does one weight alone: -128 * 255 = -32640 fits. Weights of 7 bits (-64..64) never
saturate, but give up a bit everywhere to spare a few pairs.

Which weights are a pair. Weights 2k and 2k + 1 of a row in kernel order, `edgekd.quantization.exact.KernelLayout`.
A row of odd length is padded with a zero, so its last weight is alone.

Which layers are exempt: depthwise convolutions (one input and one output channel a group, also with a single group),
whose kernel multiplies in 32 bits; uint8 weights (VPMADDWD on 16 bits: exact and slow); int8 activations in integer
operators (a portable kernel: exact and slower). A zero point, of activations or weights, changes nothing: it is
subtracted afterwards.

Every sentence here is a measurement in `tests/quantization/test_kernels.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from edgekd.quantization.exact import IntegerLayer, integer_layers

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgekd.targets import Target

LARGEST_ACTIVATION: Final = 255
INT16: Final = np.iinfo(np.int16)
PAIR_LIMIT: Final = INT16.max // LARGEST_ACTIVATION  # 128: what weights of one sign in a pair may sum up to


def neighbours(rows: NDArray[Any]) -> NDArray[Any]:
    """Return rows in kernel order, `(rows, length)`, as the pairs a kernel adds: `(rows, ceil(length / 2), 2)`.

    A row of odd length ends with a zero, as the kernel pads it.
    """
    padded = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
    return padded.reshape(len(rows), -1, 2)


def pair_excess(rows: NDArray[Any]) -> NDArray[np.int32]:
    """Return how far each pair's sum can leave int16; 0 where it cannot.

    Args:
        rows: Integer weights in kernel order, `(rows, length)`.

    Returns:
        Shape `(rows, ceil(length / 2))`; at most 32512, for two weights of -128.
    """
    pairs = neighbours(rows).astype(np.int32)
    above = LARGEST_ACTIVATION * np.maximum(pairs, 0).sum(axis=-1) - INT16.max
    below = INT16.min - LARGEST_ACTIVATION * np.minimum(pairs, 0).sum(axis=-1)
    excess: NDArray[np.int32] = np.maximum(np.maximum(above, below), 0).astype(np.int32)
    return excess


def pairs_safe(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for each row of integer weights in kernel order whether none of its pairs can saturate."""
    safe: NDArray[np.bool_] = pair_excess(rows).max(axis=1, initial=0) == 0
    return safe


@dataclass(frozen=True, kw_only=True)
class LayerSaturation:
    """What saturation can do to one layer.

    Attributes:
        name: Of the layer's node.
        op_type: Of the layer's node.
        tensor: Name of its weights.
        source: `"file"`, or `"runtime"` where onnxruntime quantizes fp32 weights of the file on loading.
        pairs: How many pairs of weights can saturate; None where the weights are computed at run time.
        excess: How far beyond int16 the worst pair's sum can be, in units of the accumulator; 0: it cannot saturate.
        channel: Output channel of the worst pair; None without one.
    """

    name: str
    op_type: str
    tensor: str
    source: Literal["file", "runtime"]
    pairs: int | None
    excess: int
    channel: int | None

    @property
    def can_saturate(self) -> bool:
        """Whether some input makes it saturate, as far as is known."""
        return self.excess > 0

    def to_json(self) -> dict[str, Any]:
        """Return it for a result file."""
        return {
            "layer": self.name,
            "op": self.op_type,
            "tensor": self.tensor,
            "source": self.source,
            "pairs": self.pairs,
            "excess": self.excess,
            "channel": self.channel,
        }


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Which layers of a file can saturate on a target.

    Attributes:
        target: Name of the target.
        layers: Every layer that multiplies 8-bit weights, in the order of the graph.
    """

    target: str
    layers: tuple[LayerSaturation, ...]

    @property
    def saturating(self) -> tuple[LayerSaturation, ...]:
        """The layers that can saturate, the worst first."""
        return tuple(sorted((one for one in self.layers if one.can_saturate), key=lambda one: -one.excess))

    def to_json(self, worst: int = 10) -> dict[str, Any]:
        """Return it for a result file, with at most `worst` layers in full."""
        saturating = self.saturating
        return {
            "target": self.target,
            "layers": len(self.layers),
            "can_saturate": len(saturating),
            "pairs": sum(one.pairs or 0 for one in saturating),
            "quantized_on_loading": [one.name for one in self.layers if one.source == "runtime"],
            "worst": [one.to_json() for one in saturating[:worst]],
        }


def certify(model: onnx.ModelProto, target: Target) -> Certificate:
    """Return which layers of a QDQ, QOperator or dynamically quantized model can saturate on a target.

    A layer that is not named cannot saturate, whatever the input. A layer that is named does saturate for some
    input, with three exceptions that the file alone does not settle: weights computed at run time, int8 activations
    that more than one layer reads (onnxruntime may leave all of these in fp32), and a MatMul followed by a Relu or
    Clip that is not quantized away.

    Args:
        model: The model, its weights in memory.
        target: What it is to run on.

    Raises:
        ModelError: weights have a shape that their operator cannot have.
    """
    judged = (_judge(layer, saturates=target.pairs_saturate) for layer in integer_layers(model))
    return Certificate(target=target.name, layers=tuple(judged))


def _judge(layer: IntegerLayer, *, saturates: bool) -> LayerSaturation:
    pairs: int | None = 0
    excess, channel = 0, None
    if saturates and layer.activations == "uint8":
        if layer.values is None or layer.layout is None:
            pairs, excess = None, int(pair_excess(np.full((1, 2), -128)).max())
        elif layer.values.dtype == np.int8 and not layer.layout.depthwise:
            found = pair_excess(layer.layout.view(layer.values))
            pairs, excess = int(np.count_nonzero(found)), int(found.max(initial=0))
            if pairs:
                channel = int(found.max(axis=1).argmax()) % layer.layout.channels
    return LayerSaturation(
        name=layer.name,
        op_type=layer.op_type,
        tensor=layer.tensor,
        source=layer.source,
        pairs=pairs,
        excess=excess,
        channel=channel,
    )
