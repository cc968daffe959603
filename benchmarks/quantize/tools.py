"""The ways to quantize that are compared: each takes an fp32 file and calibration inputs and writes an INT8 file.

Run as a script it does one of them and prints what it took: each has a process, and a peak memory, of its own.

    python tools.py NAME MODEL.onnx CALIBRATION.npz OUT.onnx
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def edgekd_file(target: str, **method: Any) -> Callable[[str, str, str], None]:
    """Return our own way."""

    def run(model: str, calibration: str, output: str) -> None:
        import edgekd
        from edgekd.quantization.static import Method

        edgekd.quantize(model, calibration, output, target=target, method=Method(**method))

    return run


def onnxruntime_file(**settings: Any) -> Callable[[str, str, str], None]:
    """Return onnxruntime's own `quantize_static` after its recommended pre-processing."""

    def run(model: str, calibration: str, output: str) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static, shape_inference

        types = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
        methods = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}
        chosen = {**settings}
        for key in ("activation_type", "weight_type"):
            if key in chosen:
                chosen[key] = types[chosen[key]]
        chosen["calibrate_method"] = methods[chosen.get("calibrate_method", "minmax")]
        with tempfile.TemporaryDirectory() as folder:
            prepared = str(Path(folder) / "prepared.onnx")
            shape_inference.quant_pre_process(model, prepared, skip_symbolic_shape=True)
            quantize_static(prepared, output, Reader(calibration), **chosen)

    return run


class Reader:
    """What onnxruntime's quantizer reads its samples from, one at a time."""

    def __init__(self, path: str) -> None:
        self._samples = self._read(path)

    def _read(self, path: str) -> Iterator[dict[str, np.ndarray]]:
        inputs = np.load(path)["input"]
        yield from ({"input": sample[None]} for sample in inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next sample, or None after the last."""
        return next(self._samples, None)


TOOLS: dict[str, Callable[[str, str, str], None]] = {
    "onnxruntime defaults": onnxruntime_file(),
    "onnxruntime u8s8 per channel": onnxruntime_file(per_channel=True, activation_type="u8", weight_type="s8"),
    "onnxruntime u8s8 per channel, reduce_range": onnxruntime_file(
        per_channel=True, activation_type="u8", weight_type="s8", reduce_range=True
    ),
    "onnxruntime u8u8 per channel": onnxruntime_file(per_channel=True, activation_type="u8", weight_type="u8"),
    "edgekd pair-safe scales only": edgekd_file(
        "x86-avx2", rounding="nearest", bias_correction=False, weight_ranges="max", equalisation=False
    ),
    "edgekd pair-safe scales of least squared error only": edgekd_file(
        "x86-avx2", rounding="nearest", bias_correction=False, equalisation=False
    ),
    "edgekd without equalisation": edgekd_file("x86-avx2", equalisation=False),
    "edgekd": edgekd_file("x86-avx2"),
    "edgekd for arm64-dotprod": edgekd_file("arm64-dotprod"),
}


def peak_bytes() -> int:
    """Return this process's peak resident memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Do one of them."""
    name, model, calibration, output = sys.argv[1:]
    start = time.monotonic()
    TOOLS[name](model, calibration, output)
    print(json.dumps({"seconds": round(time.monotonic() - start, 1), "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
