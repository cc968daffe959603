"""edgekd: from a large teacher to a verified INT8 ONNX model on a device.

The verbs of the command line are functions of the same names. They load what they need when first asked for,
so importing this package costs nothing:

    import edgekd

    edgekd.quantize("model.onnx", calibration="calibration.npz", output="model.int8.onnx")
"""

from __future__ import annotations

import importlib
import os

# As typing's own, which is not loaded yet: under `python -m edgekd` a file of the current folder could pass for it.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from edgekd.benchmarking.bench import bench as bench
    from edgekd.benchmarking.comparison import compare as compare
    from edgekd.bundling.bundle import bundle as bundle
    from edgekd.data import Contract as Contract
    from edgekd.distillation.engine import distill as distill
    from edgekd.evaluation import evaluate as evaluate
    from edgekd.onnx_export import export as export
    from edgekd.pipeline import run as run
    from edgekd.quantization.modes import quantize as quantize
    from edgekd.recipe import DistillSettings as DistillSettings
    from edgekd.reporting.page import report as report

__version__ = "0.1.0"

# onnxruntime's official builds send telemetry by default from 1.29 on; only this, set before its first import,
# stops all of it. A user who has set the variable keeps their choice.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Contract": "edgekd.data",
    "DistillSettings": "edgekd.recipe",
    "bench": "edgekd.benchmarking.bench",
    "bundle": "edgekd.bundling.bundle",
    "compare": "edgekd.benchmarking.comparison",
    "distill": "edgekd.distillation.engine",
    "evaluate": "edgekd.evaluation",
    "export": "edgekd.onnx_export",
    "quantize": "edgekd.quantization.modes",
    "report": "edgekd.reporting.page",
    "run": "edgekd.pipeline",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edgekd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
