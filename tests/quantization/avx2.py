"""A CPU with AVX2 and without VNNI: this one, or one that QEMU emulates in a process of its own.

What saturates there can so be proven on any x86-64 machine. As a program (`python avx2.py`) this is that process: it
reads questions on standard input and answers on standard output.
"""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import platform
import subprocess
import sys
from typing import Any

import pytest

from edgekd.devices import load_profile
from edgekd.drivers import device_state, open_driver
from edgekd.drivers.qemu_x86 import X86Driver
from edgekd.targets import classify, cpu_flags

DEVICE = "qemu-haswell"

Question = tuple[bytes, dict[str, Any], bool, "str | None"]


def answer(model: bytes, inputs: dict[str, Any], fused: bool, optimized: str | None) -> Any:
    """Return a model's first output on this CPU, in one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized is not None:
        options.optimized_model_filepath = optimized
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def run(model: bytes, inputs: dict[str, Any], *, fused: bool = True, optimized: str | None = None) -> Any:
    """Return a model's first output on a CPU with AVX2 and without VNNI.

    Args:
        model: The bytes of an ONNX file.
        inputs: Arrays by name.
        fused: Whether onnxruntime may optimize.
        optimized: Where to write the optimized model.
    """
    if _is_here():
        return answer(model, inputs, fused, optimized)
    machine = _emulated()
    pickle.dump((model, inputs, fused, optimized), machine.stdin)
    machine.stdin.flush()
    found = pickle.load(machine.stdout)
    if isinstance(found, Exception):
        raise found
    return found


@functools.cache
def _is_here() -> bool:
    machine = platform.machine().lower()
    return machine in ("x86_64", "amd64") and classify(machine, cpu_flags()).pairs_saturate


@functools.cache
def _emulated() -> Any:
    profile = load_profile(DEVICE)
    state = device_state(profile)
    if state != "ready":
        message = f"needs x86 without VNNI, or {DEVICE}, which {state}"
        pytest.fail(message) if "qemu" in os.environ.get("EDGEKD_REQUIRE", "").split(",") else pytest.skip(message)
    driver = open_driver(profile)
    assert isinstance(driver, X86Driver)
    with driver:  # it needs nothing of its private folder
        machine = subprocess.Popen(
            [*driver.interpreter(), __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=driver.environment(),
        )
    atexit.register(machine.kill)
    return machine


def _serve() -> None:
    while True:
        try:
            question: Question = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            found = answer(*question)
        except Exception as error:  # noqa: BLE001  whatever it is, the test that asked should see it
            found = RuntimeError(f"{type(error).__name__}: {error}")
        pickle.dump(found, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
