"""What a model asks of onnxruntime: operators that it may not have, and what the packages of some platforms refuse.

The packages of all platforms have the same CPU operators. That was measured: 1,884 small models, one for each case
of each standard operator (onnx's own node tests), load or fail alike in the Python wheel, in onnxruntime-node and in
the WebAssembly of onnxruntime-web, all 1.30.0. Those for Android, iOS and C++ hold the same library. Only those for
JavaScript refuse models whose inputs or outputs have a type that it cannot hold, such as bfloat16; inside a model
these types are no matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onnx import TensorProto

from edgekd.doctor.finding import Finding
from edgekd.graph.operators import count_operators
from edgekd.onnx_versions import CONTRIB, NEWEST, late_operators
from edgekd.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from edgekd.doctor.external import ExternalFile

_JAVASCRIPT: Final = ("node", "web")
_STANDARD: Final = ("", "ai.onnx.ml", CONTRIB)
_OPTIMIZED: Final = ("com.microsoft.nchwc", "com.ms.internal.nhwc")
_JAVASCRIPT_TYPES: Final = (
    *(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL, TensorProto.STRING),
    *(TensorProto.INT4, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
    *(TensorProto.UINT4, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
)
_NAMED: Final = 8  # operators listed by name


def operator_findings(model: onnx.ModelProto) -> list[Finding]:
    """Return which operators of a model onnxruntime has not, or has only on one kind of CPU."""
    used = count_operators(model)
    foreign = sorted({f"{one.domain}:{one.name}" for one in used if one.domain not in (*_STANDARD, *_OPTIMIZED)})
    optimized = sorted({one.name for one in used if one.domain in _OPTIMIZED})
    late = late_operators(model)
    found = []
    if foreign:
        message = f"{counted(len(foreign), 'operator')} of no domain of onnxruntime's: {_listed(foreign)}"
        advice = "They need a library of their own on every platform; export the model without them"
        found.append(Finding(kind="operators", severity="error", message=message, advice=advice))
    if late:
        message = f"no CPU kernel up to onnxruntime {NEWEST}: {_listed(late)}"
        advice = "Export the model in an older opset"
        found.append(Finding(kind="operators", severity="warning", message=message, advice=advice))
    if optimized:
        message = f"onnxruntime optimized this file for the CPU it was written on: {_listed(optimized)}"
        advice = "Ship the file that it was made from"
        found.append(Finding(kind="operators", severity="warning", message=message, advice=advice))
    return found


def platform_findings(
    model: onnx.ModelProto, files: Sequence[ExternalFile], platforms: Sequence[str]
) -> list[Finding]:
    """Return what of a model the packages of some platforms refuse.

    Args:
        model: The model.
        files: Files of weights beside it.
        platforms: Of `edgekd.bundling.packages.PLATFORMS`.
    """
    found = []
    weights = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in (*model.graph.input, *model.graph.output) if value.name not in weights]
    refused = [
        f"{value.name!r} is {TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()}"
        for value in values
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type not in _JAVASCRIPT_TYPES
    ]
    javascript = [name for name in platforms if name in _JAVASCRIPT]
    if refused and javascript:
        message = f"{' and '.join(javascript)}: JavaScript has no such input or output: {_listed(refused)}"
        found.append(Finding(kind="platform", severity="error", message=message, advice="Cast it inside the model"))
    if files and "web" in platforms:
        message = "web: a page has no files beside the model"
        advice = "Export the model into one file, or hand the weights over as `externalData` of the session"
        found.append(Finding(kind="platform", severity="warning", message=message, advice=advice))
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
