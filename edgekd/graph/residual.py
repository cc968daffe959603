"""Add a residual and a bias in one Sum before LayerNormalization, which onnxruntime then computes by its fast kernel.

onnxruntime makes one SkipLayerNormalization of the two Adds and the LayerNormalization, and on the CPU that is slower
than what it replaces: on 16 x 384 values 35 us against 16 us for a Sum of three and a LayerNormalization (onnxruntime
1.32, x86-64 with AVX-512, one thread). A Sum is not looked for by its fusion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import helper

if TYPE_CHECKING:
    import onnx


def residuals_to_sums(model: onnx.ModelProto) -> int:
    """Turn `(product + bias) + residual` in front of a LayerNormalization into `Sum(product, residual, bias)`.

    A plain `product + residual` becomes a Sum of two. Other readers of the sum, as in networks that normalise first,
    are served as before.

    Requires: constants folded, nodes sorted.
    Ensures: the same values but for the order in which float32 is summed; nodes sorted.

    Returns:
        How many Sums were written.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    makers = {name: node for node in graph.node for name in node.output}
    reads = [name for node in graph.node for name in node.input]
    normalised = {node.input[0] for node in graph.node if node.op_type == "LayerNormalization"}
    written = 0
    for node in [node for node in graph.node if node.op_type == "Add" and node.output[0] in normalised]:
        if constants & set(node.input):
            continue
        terms = list(node.input)
        for name in list(terms):
            maker = makers.get(name)
            biased = maker is not None and maker.op_type == "Add" and constants & set(maker.input)
            if maker is not None and biased and reads.count(name) == 1 and name not in outputs:
                terms.remove(name)
                terms = [*sorted(maker.input, key=lambda one: one in constants)[:1], *terms]
                terms += [one for one in maker.input if one in constants]
                graph.node.remove(maker)
        place = list(graph.node).index(node)
        graph.node.remove(node)
        graph.node.insert(place, helper.make_node("Sum", terms, [node.output[0]], node.name))
        written += 1
    return written
