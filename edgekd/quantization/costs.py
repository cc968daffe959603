"""What a layer costs in fp32, and so saves in INT8: counted from shapes, not measured."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgekd.quantization.layers import OPERATORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

_BYTES_SAVED = 3  # of the 4 of a float32 weight


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One layer.

    Attributes:
        layer: Name of its node.
        op_type: Conv, Gemm or MatMul.
        weight_bytes: By how much 8-bit weights make the file smaller; 0 where both factors are activations.
        multiply_accumulates: Of one sample; extents that the file leaves open count as 1.
    """

    layer: str
    op_type: str
    weight_bytes: int
    multiply_accumulates: int

    def to_json(self) -> dict[str, Any]:
        """Return it as a flat mapping."""
        return asdict(self)


def layer_costs(model: onnx.ModelProto) -> list[Cost]:
    """Return the cost of every Conv, Gemm and MatMul of an fp32 model, in the order of the graph.

    Requires: constants folded, shapes inferred.
    """
    graph = model.graph
    known = [*graph.input, *graph.value_info, *graph.output]
    shapes = {value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim] for value in known}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    constants = {tensor.name for tensor in graph.initializer}
    return [_cost(node, shapes, constants) for node in graph.node if node.op_type in OPERATORS]


def _cost(node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]], constants: set[str]) -> Cost:
    first, weights = (shapes.get(name, []) for name in node.input[:2])
    if node.op_type == "Conv":
        reduction = math.prod(weights[1:])
    elif node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute):
        reduction = first[0] if first else 1
    else:
        reduction = first[-1] if first else 1
    return Cost(
        layer=node.name,
        op_type=node.op_type,
        weight_bytes=_BYTES_SAVED * math.prod(weights) if node.input[1] in constants else 0,
        multiply_accumulates=reduction * math.prod(shapes.get(node.output[0], [])[1:]),
    )
