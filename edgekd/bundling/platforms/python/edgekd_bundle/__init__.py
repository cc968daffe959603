# SPDX-License-Identifier: Apache-2.0
"""A model of a bundle, checked before it is opened: needs numpy and onnxruntime, Python 3.9 or newer.

from edgekd_bundle import open_bundle

model = open_bundle("app")  # the folder with edgekd-bundle.json
model.run({"input": array})
model.classify(pixels)  # an image: uint8, height x width x 3, RGB
model.run(model.prepare_text("some words"))  # where the bundle has a tokenizer
"""

from __future__ import annotations

from edgekd_bundle.checks import Bundle, BundleError, read_bundle
from edgekd_bundle.model import Model, Score, open_bundle
from edgekd_bundle.targets import host_target

__all__ = [
    "Bundle",
    "BundleError",
    "Model",
    "Score",
    "host_target",
    "open_bundle",
    "read_bundle",
]
