"""Strip what an exporter wrote about itself and its machine: source paths, stack traces, class names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

OUR_PREFIX = "edgekd."


def strip_traces(model: onnx.ModelProto) -> int:
    """Remove documentation strings and foreign metadata everywhere in a model, sub-graphs and functions too.

    Requires: nothing.
    Ensures: no `doc_string`; no `metadata_props` but the model's own that start with `edgekd.`; the producer
    is named without a version of its build.

    Returns:
        How many entries were removed.
    """
    removed = _strip_all(model)
    foreign = [entry for entry in model.metadata_props if not entry.key.startswith(OUR_PREFIX)]
    for entry in foreign:
        model.metadata_props.remove(entry)
    for function in model.functions:
        removed += _strip_entry(function)
        removed += sum(_strip_node(node) for node in function.node)
        removed += sum(_strip_entry(value) for value in function.value_info)
    return removed + len(foreign) + _strip_graph(model.graph)


def _strip_all(model: onnx.ModelProto) -> int:
    had = int(bool(model.doc_string))
    model.doc_string = ""
    return had


def _strip_graph(graph: onnx.GraphProto) -> int:
    values = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    removed = _strip_entry(graph) + sum(_strip_entry(value) for value in values)
    return removed + sum(_strip_node(node) for node in graph.node)


def _strip_node(node: onnx.NodeProto) -> int:
    return _strip_entry(node) + sum(_strip_graph(graph) for graph in subgraphs(node))


def _strip_entry(
    entry: onnx.GraphProto | onnx.NodeProto | onnx.ValueInfoProto | onnx.TensorProto | onnx.FunctionProto,
) -> int:
    removed = int(bool(entry.doc_string)) + len(entry.metadata_props)
    entry.doc_string = ""
    del entry.metadata_props[:]
    return removed


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs in a node's attributes: the branches of an If, the body of a Loop."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
