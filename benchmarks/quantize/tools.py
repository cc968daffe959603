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

    Tool = Callable[[str, str, str], None]


def edgekd_file(target: str = "auto", **method: Any) -> Tool:
    """Return our own way."""

    def run(model: str, calibration: str, output: str) -> None:
        import edgekd
        from edgekd.quantization.static import Method

        edgekd.quantize(model, calibration, output, target=target, method=Method(**method))

    return run


def edgekd_dynamic(model: str, _calibration: str, output: str) -> None:
    """Quantize in our own way, ranges found at run time."""
    import edgekd

    edgekd.quantize(model, None, output, mode="dynamic")


def onnxruntime_static(**settings: Any) -> Tool:
    """Return onnxruntime's own `quantize_static` after its recommended pre-processing."""

    def run(model: str, calibration: str, output: str) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static, shape_inference

        types = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
        chosen = {key: types[value] if key.endswith("_type") else value for key, value in settings.items()}
        with tempfile.TemporaryDirectory() as folder:
            prepared = str(Path(folder) / "prepared.onnx")
            shape_inference.quant_pre_process(model, prepared, skip_symbolic_shape=True)
            reader = Reader(calibration)
            quantize_static(prepared, output, reader, calibrate_method=CalibrationMethod.MinMax, **chosen)

    return run


def onnxruntime_dynamic(**settings: Any) -> Tool:
    """Return onnxruntime's own `quantize_dynamic` with weights of int8."""

    def run(model: str, _calibration: str, output: str) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(model, output, weight_type=QuantType.QInt8, **settings)

    return run


def nncf_file(transformer: bool = False, **settings: Any) -> Tool:
    """Return NNCF's post-training quantization of ONNX files."""

    def run(model: str, calibration: str, output: str) -> None:
        import nncf
        import onnx

        feeds = list(samples(calibration))
        quantized = nncf.quantize(
            onnx.load(model),
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            **settings,
        )
        onnx.save(quantized, output)

    return run


def onnxsim_full(method: str) -> Tool:
    """Return onnxsim's quantization of whole graphs, activations folded: the best of its ways for a CPU."""

    def run(model: str, calibration: str, output: str) -> None:
        import onnx
        from onnxsim.full_qdq import quantize_full_qdq

        found = quantize_full_qdq(onnx.load(model), list(samples(calibration)), method=method)
        onnx.save(found[0] if isinstance(found, tuple) else found, output)

    return run


def onnxsim_dynamic(model: str, _calibration: str, output: str) -> None:
    """Quantize with onnxsim, ranges found at run time."""
    import onnx
    import onnxsim

    onnx.save(onnxsim.quantize_dynamic_matmul_integer_to_float(onnx.load(model)), output)


def samples(path: str) -> Iterator[dict[str, np.ndarray]]:
    """Give the calibration samples one at a time, each a batch of one."""
    with np.load(path) as arrays:
        whole = {name: arrays[name] for name in arrays.files}
    count = len(next(iter(whole.values())))
    yield from ({name: values[number : number + 1] for name, values in whole.items()} for number in range(count))


class Reader:
    """What onnxruntime's quantizer reads its samples from."""

    def __init__(self, path: str) -> None:
        self._samples = samples(path)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next sample, or None after the last."""
        return next(self._samples, None)


U8S8 = {"activation_type": "u8", "weight_type": "s8", "per_channel": True}
TOOLS: dict[str, Tool] = {
    "onnxruntime defaults": onnxruntime_static(),
    "onnxruntime u8s8 per channel": onnxruntime_static(**U8S8),
    "onnxruntime u8s8 per channel, reduce_range": onnxruntime_static(**U8S8, reduce_range=True),
    "onnxruntime u8s8 per channel, MatMuls with weights only": onnxruntime_static(
        **U8S8, op_types_to_quantize=["MatMul"], extra_options={"MatMulConstBOnly": True}
    ),
    "onnxruntime u8u8 per channel": onnxruntime_static(**{**U8S8, "weight_type": "u8"}),
    "onnxruntime dynamic": onnxruntime_dynamic(),
    "onnxruntime dynamic, reduce_range": onnxruntime_dynamic(reduce_range=True, per_channel=True),
    "NNCF": nncf_file(),
    "NNCF, bias correction of every layer": nncf_file(fast_bias_correction=False),
    "NNCF transformer": nncf_file(transformer=True),
    "onnxsim full_qdq": onnxsim_full("minmax"),
    "onnxsim full_qdq, ranges of least squared error": onnxsim_full("mse"),
    "onnxsim dynamic": onnxsim_dynamic,
    "edgekd, rounding to nearest, no corrections": edgekd_file(
        rounding="nearest", bias_correction=False, weight_ranges="max", equalisation=False
    ),
    "edgekd without equalisation": edgekd_file(equalisation=False),
    "edgekd without smoothing": edgekd_file(smoothing=False),
    "edgekd": edgekd_file(),
    "edgekd dynamic": edgekd_dynamic,
    "edgekd for x86-avx2": edgekd_file("x86-avx2"),
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
