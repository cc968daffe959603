"""Fusion audit: what of an INT8 file really runs in integers once onnxruntime has optimized it.

A QDQ file asks for integers; onnxruntime grants them where its patterns match, and leaves a DequantizeLinear, a
float32 operator and a QuantizeLinear where they do not. Such an *island* is slow and nothing in the file shows it. So
the audit opens the file as users do, with every optimization, and reads the graph that onnxruntime will run. That
graph is this machine's: what becomes an integer operator is the same on every CPU, layouts (Transpose, Reorder) are
not.

Measured times are from onnxruntime's own profile of that graph on one thread, the median over runs for every node.
Profiling adds about a microsecond a node, and so the smallest nodes look somewhat dearer than they are.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import onnx

from edgekd.artifact import rounded
from edgekd.inference import feed
from edgekd.runtime import open_model, write_optimized
from edgekd.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from edgekd.data.samples import Samples

RUNS: Final = 30
_WARM_UP: Final = 5
_CONVERSIONS: Final = ("QuantizeLinear", "DequantizeLinear")
_INTEGER: Final = (
    *("ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat"),
    *("NhwcMaxPool", "QAttention", "QGemm"),
)
_NO_FLOATS: Final = (
    *("ConvInteger", "MatMulInteger", "NhwcMaxPool", "QuantizeLinear", "DynamicQuantizeLinear"),
    *("ArgMax", "ArgMin", "Equal", "Greater", "Less", "NonZero", "Not", "Shape", "Size"),
)
Place = Literal["before", "between", "behind", "apart"]


@dataclass(frozen=True, kw_only=True)
class Island:
    """Float32 nodes that hang together, and the conversions around them.

    Attributes:
        nodes: Their names in the optimized graph, in its order; an operator's name for a node without one.
        operators: Their operators.
        place: `"between"` integer operators, where fusion was broken; `"before"` the first or `"behind"` the last,
            where a model may well compute in fp32; or `"apart"` from all.
        converted: Whether integers become floats just for it: dequantized in front of it, quantized again behind it.
        time_us: Measured, with the conversions around them; None if nothing was measured.
        share: Of the whole model's time; None if nothing was measured.
    """

    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    place: Place
    converted: bool = False
    time_us: float | None = None
    share: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a flat mapping."""
        return {
            "nodes": list(self.nodes),
            "operators": list(self.operators),
            "place": self.place,
            "time_us": None if self.time_us is None else rounded(self.time_us),
            "share": None if self.share is None else rounded(self.share, 3),
        }


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What runs in integers.

    Attributes:
        quantized: How many integer nodes there are of each operator.
        quantize: QuantizeLinear nodes left: one for each input is the least.
        dequantize: DequantizeLinear nodes left: none where every output comes from a Gemm or MatMul.
        islands: What computes in float32.
        time_us: Of one run of the model, measured; None if nothing was measured.
    """

    quantized: Mapping[str, int]
    quantize: int
    dequantize: int
    islands: tuple[Island, ...]
    time_us: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it; `surviving_qdq` counts nodes of both kinds."""
        return {
            "quantized": dict(sorted(self.quantized.items())),
            "surviving_qdq": self.quantize + self.dequantize,
            "fp32_islands": [island.to_json() for island in self.islands],
            "time_us": None if self.time_us is None else rounded(self.time_us),
        }


def audit(content: bytes, *, name: str, samples: Samples | None = None, runs: int = RUNS) -> Audit:
    """Return what of a file runs in integers on this machine.

    Args:
        content: An ONNX file, quantized or not.
        name: What messages call it.
        samples: Measure with the first of these; by default nothing is measured.
        runs: Over so many runs, after a few that do not count.

    Raises:
        ModelError: onnxruntime cannot open or run it.
        DataError: the sample does not fit the model.
        OutputError: the system's temporary folder has no room for it.
    """
    with temporary_folder() as folder:
        path = folder / "optimized.onnx"
        write_optimized(content, path, name=name, optimization="all")
        graph = _Graph(onnx.load(path).graph)
        groups = graph.islands()
        times = {} if samples is None else _node_times_us(path, name, samples, runs)
    operators = Counter(node.op_type for node in graph.nodes)
    found = Audit(
        quantized={op: count for op, count in operators.items() if _is_integer(op)},
        quantize=operators["QuantizeLinear"],
        dequantize=operators["DequantizeLinear"],
        islands=tuple(graph.describe(group) for group in groups),
    )
    if samples is None:
        return found
    total = sum(times.values())
    return replace(
        found,
        time_us=total,
        islands=tuple(
            _timed(island, [times.get(index, 0.0) for index in graph.with_conversions(group)], total)
            for island, group in zip(found.islands, groups, strict=True)
        ),
    )


def _timed(island: Island, times_us: Sequence[float], total_us: float) -> Island:
    time_us = sum(times_us)
    return replace(island, time_us=time_us, share=time_us / total_us if total_us else 0.0)


def _is_integer(op_type: str) -> bool:
    return op_type.startswith("QLinear") or op_type in _INTEGER


class _Graph:
    """An optimized graph: who reads whom, and which values are float32. Nodes are known by their numbers."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(graph.node)
        self.outputs = {value.name for value in graph.output}
        self.makers = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.readers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            for name in node.input:
                self.readers[name].append(index)
        known = [(value.name, value.type.tensor_type.elem_type) for value in graph.input]
        known += [(tensor.name, tensor.data_type) for tensor in graph.initializer]
        self.floats = {name for name, kind in known if kind == onnx.TensorProto.FLOAT}
        for node in self.nodes:
            if self._gives_floats(node):
                self.floats |= set(node.output)

    def islands(self) -> list[list[int]]:
        """Return the groups of nodes that compute in float32 and hand values to each other, in order."""
        inside = {index for index, node in enumerate(self.nodes) if self._is_island(node)}
        groups = []
        while inside:
            waiting = [min(inside)]
            group = set(waiting)
            while waiting:
                near = {other for other, _ in self._neighbours(waiting.pop())} & inside - group
                group |= near
                waiting += near
            inside -= group
            groups.append(sorted(group))
        return groups

    def describe(self, group: Sequence[int]) -> Island:
        """Return a group of nodes as an island that was not measured."""
        edges = [(other, forward) for index in group for other, forward in self._neighbours(index)]
        reads = any(not forward and self._touches_integers(other) for other, forward in edges)
        gives = any(forward and self._touches_integers(other) for other, forward in edges)
        places: dict[tuple[bool, bool], Place] = {
            (True, True): "between",
            (False, True): "before",
            (True, False): "behind",
            (False, False): "apart",
        }
        nodes = [self.nodes[index] for index in group]
        converts = {(self.nodes[other].op_type, forward) for other, forward in edges if self._converts(other)}
        return Island(
            nodes=tuple(node.name or node.op_type for node in nodes),
            operators=tuple(node.op_type for node in nodes),
            place=places[reads, gives],
            converted={("DequantizeLinear", False), ("QuantizeLinear", True)} <= converts,
        )

    def with_conversions(self, group: Sequence[int]) -> list[int]:
        """Return a group with the QuantizeLinear and DequantizeLinear nodes around it."""
        around = {other for index in group for other, _ in self._neighbours(index)}
        return sorted({*group, *(index for index in around if self.nodes[index].op_type in _CONVERSIONS)})

    def _neighbours(self, index: int) -> Iterator[tuple[int, bool]]:
        """Yield the nodes a node reads from (False) and those that read from it (True)."""
        node = self.nodes[index]
        yield from ((self.makers[name], False) for name in node.input if name in self.makers)
        yield from ((reader, True) for name in node.output for reader in self.readers[name])

    def _touches_integers(self, index: int) -> bool:
        """Return whether a neighbour is an integer operator, or converts from or to one's values."""
        node = self.nodes[index]
        if node.op_type == "DequantizeLinear":
            return node.input[0] in self.makers  # else it unpacks weights
        return node.op_type == "QuantizeLinear" or _is_integer(node.op_type)

    def _converts(self, index: int) -> bool:
        """Return whether a node is a QuantizeLinear, or a DequantizeLinear of computed integers, not of a table's."""
        node = self.nodes[index]
        while node.op_type != "QuantizeLinear" and not _is_integer(node.op_type):
            if not node.input or node.input[0] not in self.makers:
                return False
            node = self.nodes[self.makers[node.input[0]]]
        return self.nodes[index].op_type in _CONVERSIONS

    def _is_island(self, node: onnx.NodeProto) -> bool:
        if node.op_type in _CONVERSIONS or _is_integer(node.op_type):
            return False
        return any(name in self.floats for name in node.output)

    def _gives_floats(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "QGemm":
            return len(node.input) < 8 or not node.input[7]  # with an output scale it gives integers
        if node.op_type.startswith("QLinear") or node.op_type in _NO_FLOATS:
            return False
        if node.op_type == "Cast":
            return any(a.name == "to" and a.i == onnx.TensorProto.FLOAT for a in node.attribute)
        if node.op_type == "DequantizeLinear" or _is_integer(node.op_type):
            return True
        first = node.input[1] if node.op_type == "Where" else (node.input[0] if node.input else "")
        return first in self.floats


def _node_times_us(path: Path, name: str, samples: Samples, runs: int) -> dict[int, float]:
    """Return each node's median time in microseconds, by its number in the optimized file at `path`."""
    model = onnx.load(path)
    for index, node in enumerate(model.graph.node):
        node.name = str(index)
    opened = open_model(
        model.SerializeToString(),
        name=name,
        threads=1,
        optimization="none",
        profile_prefix=path.with_name("profile"),
    )
    feeds, _ = next(feed(opened, samples, 1, 1))
    for _ in range(_WARM_UP + runs):
        opened.run(feeds)
    events = json.loads(opened.end_profile().read_bytes())
    times: dict[int, list[float]] = defaultdict(list)
    for event in events:
        label, _, kind = event["name"].partition("_")
        if event["cat"] == "Node" and kind == "kernel_time" and label.isdecimal():
            times[int(label)].append(event["dur"])
    return {index: float(np.median(durations[_WARM_UP:])) for index, durations in times.items()}
