"""EfficientNet-Lite0 in 8 bits: edgekd and its peers on the same machine, in the same run.

    pip install -r benchmarks/quantize/requirements.txt
    EDGEKD_DATA=FOLDER python benchmarks/quantize/run.py

FOLDER holds imagenet-sample.tar: 500 labelled ImageNet images, 125 of which calibrate and 375 judge. Writes
results-<instruction set>.json beside this file and prints the table of the README.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import model as efficientnet
import numpy as np
import onnxruntime
from tools import TOOLS

import edgekd
from edgekd.artifact import library_versions, write_json
from edgekd.data.opening import open_data
from edgekd.metrics import agreement, sqnr_db, top1
from edgekd.quantization.saturation import certify
from edgekd.runtime import open_model, predict
from edgekd.targets import TARGETS, detect_host

if TYPE_CHECKING:
    from edgekd.data.samples import ImageSamples

HERE = Path(__file__).parent
CALIBRATION = 125


def images(folder: Path) -> tuple[ImageSamples, ImageSamples]:
    """Return the samples that calibrate and those that judge, drawn with a fixed seed."""
    archive = Path(os.environ["EDGEKD_DATA"]) / "imagenet-sample.tar"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    samples: Any = open_data(
        folder / "imagenet-sample", inputs=["input"], contract=efficientnet.CONTRACT, labels="prefix"
    )
    order = np.random.default_rng(0).permutation(len(samples))
    parts = np.sort(order[:CALIBRATION]), np.sort(order[CALIBRATION:])
    calibration, judges = (replace(samples, indices=samples.indices[part]) for part in parts)
    return calibration, judges


def exact(path: Path, samples: ImageSamples) -> np.ndarray:
    """Return outputs in exact integer arithmetic, as VNNI and ARM compute: nothing fused, nothing saturates."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options)
    found = [session.run(None, samples.batch([number]))[0] for number in range(len(samples))]
    return np.concatenate(found)


def judge(name: str, path: Path, judges: ImageSamples, expected: np.ndarray) -> dict[str, Any]:
    """Return the figures of one file on this machine, and in exact arithmetic where it is for another."""
    import onnx

    foreign = name.endswith("arm64-dotprod")
    outputs = exact(path, judges) if foreign else predict(open_model(path), judges)
    host = detect_host()
    return {
        "tool": name,
        "arithmetic": "exact integers" if foreign else host.name,
        "top1": round(top1(outputs, judges.labels), 4),
        "agreement": round(agreement(outputs, expected), 4),
        "sqnr_db": round(sqnr_db(outputs, expected), 2),
        "can_saturate": certify(onnx.load(path), TARGETS["arm64-dotprod"] if foreign else host).to_json()[
            "can_saturate"
        ],
        "file_bytes": path.stat().st_size,
    }


def main() -> None:
    """Run every tool, judge and time its file, and write the results."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fp32 = folder / "efficientnet-lite0.onnx"
        efficientnet.write(fp32)
        calibration, judges = images(folder)
        np.savez(folder / "calibration.npz", **calibration.batch(range(len(calibration))))
        expected = predict(open_model(fp32), judges)
        for number, tool in enumerate(TOOLS):
            output = folder / f"{number}.onnx"
            command = [
                sys.executable,
                str(HERE / "tools.py"),
                tool,
                str(fp32),
                str(folder / "calibration.npz"),
                str(output),
            ]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            row = {**judge(tool, output, judges, expected), **json.loads(ran.stdout.splitlines()[-1])}
            timed = edgekd.bench([fp32, output], duration_s=6, repeats=6).to_json()
            row["latency_ratio"] = timed["models"][1]["ratio_to_first"]
            row["conditions"] = timed["conditions"]["verdict"]
            rows.append(row)
            print(json.dumps(row), flush=True)
        write_json(
            HERE / f"results-{detect_host().name}.json",
            {
                "schema": "edgekd.benchmark/1",
                "study": "quantize",
                "model": "efficientnet-lite0",
                "target": detect_host().name,
                "cpu": timed["conditions"]["cpu_model"],
                "versions": library_versions(["numpy", "onnx", "onnxruntime", "torch"]),
                "samples": {"calibration": len(calibration), "evaluation": len(judges)},
                "fp32_top1": round(top1(expected, judges.labels), 4),
                "rows": rows,
            },
        )
    print_table(rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the README's table."""
    print("| tool | top-1 | agreement | SQNR, dB | layers that can saturate | latency / fp32 | seconds | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        ratio = row["latency_ratio"]
        print(
            f"| {row['tool']} | {row['top1']:.3f} | {row['agreement']:.3f} | {row['sqnr_db']:.1f} | "
            f"{row['can_saturate']} | {ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f}) | "
            f"{row['seconds']:.0f} | {row['peak_bytes'] / 1e6:.0f} |"
        )


if __name__ == "__main__":
    main()
