"""Rewrite an fp32 model into operators that onnxruntime runs in integers, or in one fast kernel."""

from __future__ import annotations

import onnx

from edgekd.graph.arithmetic import constants_to_sums_and_products
from edgekd.graph.gelu import gelu_to_fusible
from edgekd.graph.means import keep_mean_axes
from edgekd.graph.names import name_nodes
from edgekd.graph.normalisation import normalisation_to_convolution
from edgekd.graph.pooling import mean_to_pooling
from edgekd.graph.residual import residuals_to_sums


def make_fusible(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with operators that have integer kernels in place of some that have none.

    Means over all pixels become poolings, constants are added and multiplied only, and batch normalisation that no
    layer took up becomes a layer of its own. GELU and residual sums take the form that runs fastest between layers.

    Requires: constants folded, shapes and types inferred.
    Ensures: the same values but for rounding of float32; every node has a name of its own; types of all values known.
    """
    name_nodes(model)
    passes = (
        *(keep_mean_axes, mean_to_pooling, gelu_to_fusible, residuals_to_sums),
        *(constants_to_sums_and_products, normalisation_to_convolution),
    )
    changed = sum(one(model) for one in passes)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True) if changed else model
