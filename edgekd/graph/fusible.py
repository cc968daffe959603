"""Rewrite an fp32 model into operators that onnxruntime can run in integers between integer layers."""

from __future__ import annotations

import onnx

from edgekd.graph.arithmetic import constants_to_sums_and_products
from edgekd.graph.means import keep_mean_axes
from edgekd.graph.names import name_nodes
from edgekd.graph.pooling import mean_to_pooling


def make_fusible(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with means over all pixels as pooling, and constants added and multiplied only.

    Requires: constants folded, shapes and types inferred.
    Ensures: the same values but for rounding of float32; every node has a name of its own; types of all values known.
    """
    name_nodes(model)
    changed = keep_mean_axes(model) + mean_to_pooling(model) + constants_to_sums_and_products(model)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True) if changed else model
