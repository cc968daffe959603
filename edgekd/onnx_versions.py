"""Which release of onnxruntime reads which model: versions of the format, of the operators, and their CPU kernels.

The table begins with 1.10. Up to 1.14 it is that of onnxruntime's documentation ("ONNX Runtime compatibility",
ONNX opset support); from 1.15 on each release's own wheel was asked which versions it opens, and which kernels it
lists. A release may accept a version of the operators before it has kernels for all of them: such operators are
listed by name. Types are not looked at: an operator may have a kernel for float32 and none for bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import onnx

from edgekd.graph.operators import Operator, count_operators, opsets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CONTRIB: Final = "com.microsoft"


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release of onnxruntime.

    Attributes:
        version: Its version, the first of its kind.
        ir_version: Highest version of the format that it reads.
        opset: Highest version of the standard operators.
        ml: Highest version of the operators of `ai.onnx.ml`.
    """

    version: str
    ir_version: int
    opset: int
    ml: int


RELEASES: Final = tuple(
    Release(version=version, ir_version=ir_version, opset=opset, ml=ml)
    for version, ir_version, opset, ml in (
        ("1.10.0", 8, 15, 2),
        ("1.11.0", 8, 16, 2),
        ("1.12.0", 8, 17, 3),
        ("1.14.0", 8, 18, 3),
        ("1.15.0", 9, 19, 3),
        ("1.17.0", 9, 20, 4),
        ("1.18.0", 10, 21, 5),
        ("1.21.0", 10, 22, 5),
        ("1.23.0", 11, 23, 5),
        ("1.24.1", 13, 25, 5),
        ("1.25.0", 13, 26, 5),
        ("1.32.0", 14, 28, 5),
    )
)
NEWEST: Final = RELEASES[-1].version

# Standard operators, by the version they were last changed in, whose kernel came later than the opset; None: not yet.
_LATE: Final[dict[tuple[str, int], str | None]] = {
    ("DeformConv", 19): "1.25.0",
    ("DeformConv", 22): "1.25.0",
    ("LpNormalization", 22): "1.25.0",
    ("QLinearMatMul", 21): "1.20.0",
    ("TensorScatter", 24): "1.25.0",
    ("DequantizeLinear", 28): None,
    ("GlobalLpPool", 22): None,
    ("ImageDecoder", 20): None,
    ("MaxRoiPool", 22): None,
    ("Multinomial", 22): None,
    ("Optional", 28): None,
    ("OptionalGetElement", 28): None,
    ("OptionalHasElement", 28): None,
    ("QuantizeLinear", 28): None,
    ("RandomNormal", 22): None,
    ("RandomNormalLike", 22): None,
    ("RandomUniform", 22): None,
    ("RandomUniformLike", 22): None,
    ("RoiAlign", 22): None,
}

# Operators of `com.microsoft`, by the first release with a CPU kernel; 1.16 is the oldest that lists its kernels.
_CONTRIB_BY_RELEASE: Final = {
    "1.16.0": (
        "Attention AttnLSTM BeamSearch BiasGelu BifurcationDetector CDist ConvTransposeWithDynamicPads "
        "CropAndResize DequantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul EmbedLayerNormalization "
        "ExpandDims FastGelu FusedConv FusedGemm FusedMatMul GatherND Gelu GreedySearch GridSample Inverse "
        "MatMulFpQ4 MatMulInteger16 MatMulIntegerToFloat MaxpoolWithMask MultiHeadAttention MurmurHash3 "
        "NGramRepeatBlock NhwcMaxPool Pad QAttention QEmbedLayerNormalization QGemm QLinearAdd "
        "QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul "
        "QLinearSigmoid QLinearSoftmax QLinearWhere QuantizeLinear QuickGelu Range SampleOp Sampling "
        "SkipLayerNormalization SparseToDenseMatMul Tokenizer TransposeMatMul Trilu Unique WordConvEmbedding"
    ),
    "1.17.0": "MatMulBnb4 MatMulNBits RotaryEmbedding SkipSimplifiedLayerNormalization WhisperBeamSearch",
    "1.18.0": "GroupQueryAttention",
    "1.19.0": "SparseAttention",
    "1.20.0": "DecoderMaskedMultiHeadAttention DynamicTimeWarping GatherBlockQuantized UnfoldTensor",
    "1.23.0": "QMoE",
    "1.24.1": "MoE",
    "1.26.0": "CausalConvWithState LinearAttention",
    "1.29.0": "MRotaryEmbedding",
    "1.30.0": "EngramGate GatedAdd GatedRMSNorm LinearAttentionGate NGramHashMapping",
    "1.31.0": "BranchwiseRMSNorm HyperConnectionPostMix HyperConnectionPreMix ScaledSiLU VarlenNGramHashMapping",
    "1.32.0": "GatedDeltaNet GatherPacked MoEGroupRouter VarlenCausalConvWithState",
}
_CONTRIB_SINCE: Final = {name: version for version, names in _CONTRIB_BY_RELEASE.items() for name in names.split()}


def least_onnxruntime(model: onnx.ModelProto) -> str | None:
    """Return the oldest release of onnxruntime, from 1.10 on, that reads a model on a CPU; None if there is none yet.

    An operator of `com.microsoft` needs 1.16 at least, the oldest that was asked. Those of unknown domains need no
    release, but somebody's library, and are not looked at.
    """
    return _latest(list(_needed(model)))


def least_for_contrib(names: Iterable[str]) -> str | None:
    """Return the oldest release with CPU kernels for operators of `com.microsoft`; None if there is none yet."""
    return _latest([_CONTRIB_SINCE.get(name) for name in names])


def late_operators(model: onnx.ModelProto) -> list[str]:
    """Return the operators of a model that no release up to `NEWEST` has a CPU kernel for, such as `RoiAlign(22)`."""
    late = {found for found in count_operators(model) if _operator_release(found) is None}
    return sorted(f"{found.name}({_since(found)})" for found in late)


def version_key(version: str) -> tuple[int, ...]:
    """Return a release's version as numbers, to be compared; what is behind them (`1.33.0.dev1`) does not count."""
    numbers = []
    for part in version.split(".")[:3]:
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _latest(needed: Sequence[str | None]) -> str | None:
    """Return the release that has all that is needed; None where something has none yet."""
    if None in needed:
        return None
    return max((one for one in needed if one is not None), key=version_key, default=RELEASES[0].version)


def _needed(model: onnx.ModelProto) -> Iterator[str | None]:
    """Yield the release that each version and operator needs; None where there is none yet."""
    asked = opsets(model)
    yield next(
        (
            release.version
            for release in RELEASES
            if model.ir_version <= release.ir_version
            and asked.get("", 0) <= release.opset
            and asked.get("ai.onnx.ml", 0) <= release.ml
        ),
        None,
    )
    yield from map(_operator_release, count_operators(model))


def _operator_release(operator: Operator) -> str | None:
    if operator.domain == CONTRIB:
        return _CONTRIB_SINCE.get(operator.name)
    if operator.domain:
        return RELEASES[0].version
    return _LATE.get((operator.name, _since(operator)), RELEASES[0].version)


def _since(operator: Operator) -> int:
    """Return the version that an operator was changed in last, of those a model may mean; its opset if unknown."""
    try:
        schema = onnx.defs.get_schema(operator.name, max(operator.opset, 1), operator.domain)
    except onnx.defs.SchemaError:
        return operator.opset
    return int(schema.since_version)
