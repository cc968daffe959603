"""Where the time of an inference goes: by operator, by node, and by kind of work. From onnxruntime's own profiler.

A profile is a run of its own, in a fresh process after the measurement: the profiler writes down every node, which
takes about a microsecond each. So its sum stands beside the latency that was measured without it.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - pydantic reads the annotations
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from edgekd.artifact import rounded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Kind = Literal["int8", "float", "movement", "other"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
# Operators that change no number but its form or its place; the last line's are onnxruntime's own.
MOVEMENT: Final = frozenset(
    (
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "CastLike"),
        *("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Concat", "Split", "Slice", "Pad"),
        *("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "Expand", "Tile"),
        *("DepthToSpace", "SpaceToDepth"),
        *("ReorderInput", "ReorderOutput", "QLinearConcat", "MemcpyFromHost", "MemcpyToHost"),
    )
)
_BYTES: Final = ("int8", "uint8")
_INTEGER: Final = ("QLinear", "DynamicQuantize", "Integer", "QGemm", "QAttention")
_FLOATS: Final = ("float", "float16", "double", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """All nodes of one operator and one kind of work.

    Attributes:
        operator: Its type, in the graph as onnxruntime has optimized it.
        kind: `"int8"` (reads 8-bit numbers and computes), `"float"`, `"movement"` (converts, reorders or copies) or
            `"other"`, such as arithmetic of shapes.
        nodes: How many there are.
        calls: Times they ran in one inference.
        time_us: In one inference, in microseconds; each node's median over the runs.
        share: Of the time of all nodes.
    """

    operator: str
    kind: Kind
    nodes: int
    calls: float
    time_us: float
    share: float


@dataclass(frozen=True, kw_only=True)
class NodeTime:
    """One node: its `name` in the optimized graph; the rest as of `OperatorTime`."""

    name: str
    operator: str
    kind: Kind
    calls: float
    time_us: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where the time of one model with one number of threads goes.

    Attributes:
        runs: Profiled inferences.
        run_ms: One of them, in ms; the median.
        nodes_ms: All nodes of one of them together, in ms.
        nodes_over_p50: `nodes_ms` over the median latency that was measured without the profiler.
        kinds: Of each kind of work its share of the time of all nodes.
        operators: Slowest first.
        nodes: Slowest first.
    """

    runs: int
    run_ms: float
    nodes_ms: float
    nodes_over_p50: float
    kinds: Mapping[Kind, float]
    operators: tuple[OperatorTime, ...]
    nodes: tuple[NodeTime, ...]


def kind_of(operator: str, types: Sequence[str]) -> Kind:
    """Return what kind of work a node does, from its operator and the element types of its inputs."""
    if operator in MOVEMENT:
        return "movement"
    if operator in ("Shape", "Size"):
        return "other"
    if any(name in _BYTES for name in types) or any(word in operator for word in _INTEGER):
        return "int8"
    return "float" if any(name in _FLOATS for name in types) else "other"


def summarise(block: Mapping[str, Any], p50_ms: float) -> Profile:
    """Return a profile from what `profiled.py` says, and the median latency without a profiler.

    A node's time is its median over the runs, and a group's the sum of its nodes': so the parts add up to the whole,
    and a run that the system interrupted changes none of them.
    """
    times_us = [float(median(node["time_us"])) for node in block["nodes"]]
    total_us = sum(times_us)

    def share(time_us: float) -> float:
        return rounded(time_us / total_us, 4) if total_us else 0.0

    nodes = [
        NodeTime(
            name=node["name"] or node["operator"],
            operator=node["operator"],
            kind=kind_of(node["operator"], node["types"]),
            calls=rounded(node["calls"]),
            time_us=time_us,
            share=share(time_us),
        )
        for node, time_us in zip(block["nodes"], times_us, strict=True)
    ]
    groups: dict[tuple[str, Kind], list[NodeTime]] = {}
    for node in nodes:
        groups.setdefault((node.operator, node.kind), []).append(node)
    operators = [_operator(members, share) for members in groups.values()]
    return Profile(
        runs=block["runs"],
        run_ms=rounded(median(block["run_ms"])),
        nodes_ms=rounded(total_us / 1e3),
        nodes_over_p50=rounded(total_us / 1e3 / p50_ms, 4),
        kinds={kind: share(sum(node.time_us for node in nodes if node.kind == kind)) for kind in KINDS},
        operators=tuple(sorted(operators, key=lambda operator: -operator.time_us)),
        nodes=tuple(sorted(nodes, key=lambda node: -node.time_us)),
    )


def _operator(members: Sequence[NodeTime], share: Callable[[float], float]) -> OperatorTime:
    time_us = sum(node.time_us for node in members)
    return OperatorTime(
        operator=members[0].operator,
        kind=members[0].kind,
        nodes=len(members),
        calls=rounded(sum(node.calls for node in members)),
        time_us=time_us,
        share=share(time_us),
    )
