"""The verb `quantize`: fewer bits in one of three ways.

`"static"` INT8 (`static.py`) for convolutions and whatever else is to be fast; `"dynamic"` INT8 (`dynamic.py`) for
matrices, without calibration data; `"fp16"` (`half.py`) for half the file and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Unpack, get_args

from edgekd.errors import UsageError
from edgekd.quantization.dynamic import DynamicQuantization
from edgekd.quantization.half import HalfPrecision
from edgekd.quantization.static import Quantization
from edgekd.quantization.synthetic import SYNTHETIC
from edgekd.text import nearest

if TYPE_CHECKING:
    from pathlib import Path

    from edgekd.data.opening import DataLike
    from edgekd.quantization.job import Common, Job
    from edgekd.quantization.result import Quantized
    from edgekd.quantization.static import Method

Mode = Literal["static", "dynamic", "fp16"]


def quantize(
    model: str | Path | bytes,
    calibration: DataLike | None,
    output: str | Path | None,
    *,
    mode: Mode = "static",
    target: str = "auto",
    method: Method | None = None,
    samples: int | None = None,
    cache: str | Path | None = None,
    **common: Unpack[Common],
) -> Quantized:
    """Quantize an fp32 ONNX model for a target, and write it.

    The file is written whether or not the gate is met; the result's `gate_met` says which. Where static INT8 would
    miss it with every layer in INT8, the layers that hurt most stay in fp32: as few as meet it (`sensitivity.py`).

    Args:
        model: A file, or the bytes of one.
        calibration: Data that sets the ranges of static INT8; see `edgekd.evaluate` for its forms. `"synthetic"`
            makes samples up, for want of data (`synthetic.py`). The other modes take None.
        output: The file to write; None to write none.
        mode: `"static"` INT8; `"dynamic"` INT8, whose activations are quantized at run time; or `"fp16"` weights,
            which compute in fp32.
        target: Name of an instruction set (`edgekd.targets`); `"auto"` is this machine's.
        method: How static INT8 chooses its 8 bits; the best by default.
        samples: At most so many calibration samples; by default all, or 128 made-up ones.
        cache: A folder that keeps calibrated ranges for the next call with the same question; see `calibrate`.
        common: `evaluation`: data to score the result on, against the fp32 model. `max_drop`: the gate, judged on
            it: largest loss of top-1 (of agreement without labels). `contract`: how images become inputs; by default
            what the model's own metadata say. `labels`: for folders of images: `"folder"`, `"prefix"` or the name of
            a CSV file. `metadata`: further entries for the file; keys start with `edgekd.`. `measure`: whether to
            time the file beside the fp32 model (`speed.py`), where this machine is the target, and what of it
            computes in fp32 (`audit.py`). `progress`: a listener.

    Raises:
        ModelError: the model is missing, damaged, already quantized, or has nothing to quantize.
        DataError: data is missing, damaged or does not fit the model.
        UsageError: no such target or mode, a gate without data to judge it on, or what the mode does not read.
        OutputError: the file cannot be written; an earlier one stays.
    """
    job = open_job(model, calibration, mode=mode, method=method, samples=samples, cache=cache, **common)
    return job.write(target, output)


def open_job(
    model: str | Path | bytes,
    calibration: DataLike | None,
    *,
    mode: Mode = "static",
    method: Method | None = None,
    samples: int | None = None,
    cache: str | Path | None = None,
    **common: Unpack[Common],
) -> Job:
    """Return what makes files of one model for any number of targets; the arguments are those of `quantize`."""
    if mode not in get_args(Mode):
        known = ", ".join(get_args(Mode))
        raise UsageError(f"unknown mode {mode!r}{nearest(mode, get_args(Mode))}; known: {known}")
    if mode == "static":
        if calibration is None:
            raise UsageError(
                "static INT8 sets its ranges from calibration data; name some with --calibration, or make "
                f"samples up with --calibration {SYNTHETIC}"
            )
        return Quantization(model, calibration, method=method, samples=samples, cache=cache, **common)
    given = {"calibration": calibration, "method": method, "samples": samples, "cache": cache}
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"{name} belongs to static INT8; the mode {mode!r} calibrates nothing")
    return (DynamicQuantization if mode == "dynamic" else HalfPrecision)(model, **common)
