"""What an ONNX file says of itself: versions, operators, open axes, files beside it. Nothing of it is run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.doctor.external import ExternalFile, external_files, external_findings
from edgekd.doctor.finding import Finding
from edgekd.doctor.platforms import operator_findings, platform_findings
from edgekd.graph.operators import count_operators, opsets
from edgekd.graph.opset import default_opset
from edgekd.onnx_versions import least_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx


@dataclass(frozen=True, kw_only=True)
class OpenAxis:
    """An axis of an input, not the first, whose extent a model leaves open.

    Attributes:
        input: Name of the input.
        axis: Number of the axis, counted from 0; None where no shape is declared at all.
        name: What the model calls its extent; None if it has no name.
    """

    input: str
    axis: int | None
    name: str | None


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What an ONNX file says of itself.

    Attributes:
        ir_version: Of its format.
        opset: Version of its standard operators.
        opsets: Versions by domain; the standard one is `""`.
        least_onnxruntime: The oldest release that reads it (`edgekd.onnx_versions`); None if none is known to.
        operators: How many nodes there are, by domain and operator.
        open_axes: Axes of inputs that it leaves open, other than the first, which is the batch.
        external_data: Files that it needs beside it.
        made_for: The target that its metadata name; None if they name none.
    """

    ir_version: int
    opset: int
    opsets: Mapping[str, int]
    least_onnxruntime: str | None
    operators: Mapping[str, Mapping[str, int]]
    open_axes: tuple[OpenAxis, ...]
    external_data: tuple[ExternalFile, ...]
    made_for: str | None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            **vars(self),
            "opsets": dict(self.opsets),
            "operators": {domain: dict(counts) for domain, counts in self.operators.items()},
            "open_axes": [dict(vars(axis)) for axis in self.open_axes],
            "external_data": [file.to_json() for file in self.external_data],
        }


def dissect(model: onnx.ModelProto, path: Path) -> Anatomy:
    """Return what a model says of itself.

    Args:
        model: The model; weights in other files need not be loaded.
        path: Where it lies.
    """
    operators: dict[str, dict[str, int]] = defaultdict(dict)
    for operator, count in sorted(count_operators(model).items()):
        counts = operators[operator.domain]
        counts[operator.name] = counts.get(operator.name, 0) + count
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return Anatomy(
        ir_version=model.ir_version,
        opset=default_opset(model),
        opsets=opsets(model),
        least_onnxruntime=least_onnxruntime(model),
        operators=operators,
        open_axes=tuple(_open_axes(model)),
        external_data=external_files(model, path),
        made_for=metadata.get("edgekd.target"),
    )


def anatomy_findings(model: onnx.ModelProto, anatomy: Anatomy, platforms: Sequence[str]) -> list[Finding]:
    """Return what there is to say of it, and of what the packages of some platforms refuse."""
    return [
        *external_findings(anatomy.external_data),
        *operator_findings(model),
        *platform_findings(model, anatomy.external_data, platforms),
        *_axis_findings(anatomy.open_axes),
    ]


def _open_axes(model: onnx.ModelProto) -> Iterator[OpenAxis]:
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in weights or not value.type.HasField("tensor_type"):
            continue
        kind = value.type.tensor_type
        if not kind.HasField("shape"):
            yield OpenAxis(input=value.name, axis=None, name=None)
            continue
        for axis, extent in enumerate(kind.shape.dim):
            if axis and not extent.HasField("dim_value"):
                yield OpenAxis(input=value.name, axis=axis, name=extent.dim_param or None)


def _axis_findings(axes: Sequence[OpenAxis]) -> Iterator[Finding]:
    if not axes:
        return
    by_input: dict[str, list[str]] = defaultdict(list)
    for axis in axes:
        by_input[axis.input].append("no shape" if axis.axis is None else axis.name or f"axis {axis.axis}")
    told = "; ".join(f"{name!r} ({', '.join(extents)})" for name, extents in by_input.items())
    named = next((axis.name for axis in axes if axis.name), "AXIS")
    yield Finding(
        kind="open-axes",
        severity="warning",
        message=f"beside the batch, extents of inputs are open: {told}",
        advice=f"Bench it at the extents that your app uses (--dim {named}=N); fixed ones let more be planned ahead",
    )
