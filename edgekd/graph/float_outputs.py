"""Let a Gemm or MatMul hand out float32 where nothing reads its output in integers.

Its integer kernels sum in 32 bits and can scale to float32 at once (QGemm without an output scale,
MatMulIntegerToFloat); rounding logits to 8 bits and back costs time and accuracy, and makes ties among classes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

_LAYERS = ("Gemm", "MatMul")


def removed_activations(model: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the Relu and Clip nodes behind each Gemm and MatMul that are in `model` and no longer in its QDQ form.

    onnxruntime's quantizer removes them where the QuantizeLinear behind clips just as they do.

    Requires: named nodes; the layers' names the same in both.

    Returns:
        The nodes by the layer's name, in order; layers without any are left out.
    """
    left = {node.name for node in quantized.graph.node}
    readers = {name: node for node in model.graph.node for name in node.input[:1] if node.name not in left}
    found = {}
    for layer in model.graph.node:
        chain: list[onnx.NodeProto] = []
        while layer.op_type in _LAYERS and (behind := readers.get((chain or [layer])[-1].output[0])) is not None:
            chain.append(behind)
        if chain:
            found[layer.name] = chain
    return found


def keep_float_outputs(
    model: onnx.ModelProto,
    integer_nodes: Collection[str],
    activations: Mapping[str, Sequence[onnx.NodeProto]] | None = None,
) -> int:
    """Remove the QuantizeLinear and DequantizeLinear behind a Gemm or MatMul from which no integer node reads.

    Args:
        model: In QDQ form, nodes sorted and named.
        integer_nodes: Names of the nodes that may run in integers; their reading keeps a pair.
        activations: The Relu and Clip nodes, by the layer's name, for which a pair's clipping stands
            (`removed_activations`); they come back in its place.

    Requires: the further inputs of these activations are in the model.

    Returns:
        How many pairs were removed.
    """
    graph = model.graph
    outputs = {value.name for value in graph.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    removed = 0
    for node in [node for node in graph.node if node.op_type in _LAYERS]:
        pair = _pair(readers, outputs, node.output[0])
        if pair is None:
            continue
        quantizer, dequantizer = pair
        behind = readers.get(dequantizer.output[0], [])
        if any(reader.name in integer_nodes for reader in behind):
            continue
        _replace(graph, node, quantizer, dequantizer.output[0], (activations or {}).get(node.name, ()))
        graph.node.remove(quantizer)
        graph.node.remove(dequantizer)
        removed += 1
    return removed


def _replace(
    graph: onnx.GraphProto,
    layer: onnx.NodeProto,
    quantizer: onnx.NodeProto,
    output: str,
    activations: Sequence[onnx.NodeProto],
) -> None:
    """Let a layer give `output` through some activations, which stand where its QuantizeLinear does."""
    chain = [layer]
    for activation in activations:
        copy = onnx.NodeProto()
        copy.CopyFrom(activation)
        chain.append(copy)
    chain[-1].output[0] = output
    place = list(graph.node).index(quantizer)
    for before, after in pairwise(chain):
        before.output[0] = f"{layer.name}.{before.name}.float"
        after.input[0] = before.output[0]
    for offset, node in enumerate(chain[1:]):
        graph.node.insert(place + offset, node)


def _pair(
    readers: dict[str, list[onnx.NodeProto]], outputs: set[str], name: str
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """Return the QuantizeLinear that alone reads a value and the DequantizeLinear that alone reads that."""
    quantizers = readers.get(name, [])
    if name in outputs or [node.op_type for node in quantizers] != ["QuantizeLinear"]:
        return None
    dequantizers = readers.get(quantizers[0].output[0], [])
    if quantizers[0].output[0] in outputs or [node.op_type for node in dequantizers] != ["DequantizeLinear"]:
        return None
    return quantizers[0], dequantizers[0]
