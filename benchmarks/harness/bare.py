"""What the harness is held against: onnxruntime's own API in a loop written by hand. Nothing of edgekd.

    python bare.py MODEL PHASE SECONDS

PHASE is where the process ends: import, session, first_run or steady, which warms up for a second and then times runs
for SECONDS. Prints one line of JSON: the peak of its resident memory (VmHWM) and the timed runs.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime

WARM_UP_S = 1.0


def main(model: str, phase: str, seconds: float) -> list[int]:
    """Go as far as the phase; return the timed runs in ns."""
    if phase == "import":
        return []
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    if phase == "session":
        return []
    (given,) = session.get_inputs()
    shape = [axis if isinstance(axis, int) else 1 for axis in given.shape]
    feeds = {given.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    session.run(None, feeds)
    if phase == "first_run":
        return []
    end = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < end:
        session.run(None, feeds)
    samples = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        session.run(None, feeds)
        samples.append(time.perf_counter_ns() - start)
    return samples


if __name__ == "__main__":
    samples = main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"peak_bytes": int(peak.split()[1]) * 1024, "samples_ms": [one / 1e6 for one in samples]}))
