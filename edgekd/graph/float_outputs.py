"""Let a Gemm or MatMul hand out float32 where nothing reads its output in integers.

Its integer kernels sum in 32 bits and can scale to float32 at once (QGemm without an output scale,
MatMulIntegerToFloat); rounding logits to 8 bits and back costs time and accuracy, and makes ties among classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx

_LAYERS = ("Gemm", "MatMul")


def keep_float_outputs(model: onnx.ModelProto, integer_nodes: Collection[str]) -> int:
    """Remove the QuantizeLinear and DequantizeLinear behind a Gemm or MatMul from which no integer node reads.

    Args:
        model: In QDQ form, nodes sorted and named.
        integer_nodes: Names of the nodes that may run in integers; their reading keeps a pair.

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
        node.output[0] = dequantizer.output[0]
        graph.node.remove(quantizer)
        graph.node.remove(dequantizer)
        removed += 1
    return removed


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
