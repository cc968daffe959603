"""Does the peak memory of `edgekd.quantize` grow with the number of calibration images?

    EDGEKD_DATA=FOLDER python benchmarks/quantize/memory.py

Quantizes EfficientNet-Lite0 with more and more of the images, each time in a process of its own, and writes
results-memory.json beside this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import efficientnet
import numpy as np

from edgekd.artifact import library_versions, write_json

HERE = Path(__file__).parent
COUNTS = (50, 125, 250, 500)


def main() -> None:
    """Measure, write the results and print the README's table."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = efficientnet.prepare(folder)
        parts = efficientnet.images(folder)
        everything = np.concatenate([part.batch(range(len(part)))["input"] for part in parts])
        for count in COUNTS:
            np.savez(folder / "images.npz", input=everything[:count])
            command = [sys.executable, str(HERE / "tools.py"), "edgekd", str(study.fp32)]
            command += [str(folder / "images.npz"), str(folder / "int8.onnx")]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append({"images": count, **json.loads(ran.stdout.splitlines()[-1])})
    versions = library_versions(["numpy", "onnx", "onnxruntime"])
    write_json(HERE / "results-memory.json", {"schema": "edgekd.benchmark/1", "versions": versions, "rows": rows})
    print("| calibration images | peak MB | seconds |\n|---|---|---|")
    for row in rows:
        print(f"| {row['images']} | {row['peak_bytes'] / 1e6:.0f} | {row['seconds']:.0f} |")


if __name__ == "__main__":
    main()
