"""Every tensor that a model holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.graph.traces import subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield a model's weights and constants, those of sub-graphs and functions too."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for graph in subgraphs(node):
            yield from _graph_tensors(graph)
