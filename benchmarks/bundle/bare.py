"""Open a model with onnxruntime alone, answer once, and say the peak memory.

python bare.py MODEL.onnx
"""

import os
import sys
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
session.run(
    None, {given.name: np.zeros([extent if isinstance(extent, int) else 1 for extent in given.shape], np.float32)}
)
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
