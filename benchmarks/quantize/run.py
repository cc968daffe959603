"""8 bits by edgekd and by its peers on the same machine, in the same run.

    pip install -r benchmarks/quantize/requirements.txt
    EDGEKD_DATA=FOLDER python benchmarks/quantize/run.py [STUDY]...

STUDY is efficientnet-lite0, minilm, digits, fashion-mnist or cifar10; all by default. FOLDER holds
imagenet-sample.tar, banking77/ and cifar10-imagefolder.tar.gz. The studies' results go into
results-<instruction set>.json beside this file, where those of the others stay; their tables are printed.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnx
import onnxruntime

import edgekd
from edgekd.artifact import library_versions, write_json
from edgekd.quantization.saturation import certify
from edgekd.targets import TARGETS, detect_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from study import Answers, Study

HERE = Path(__file__).parent
STUDIES = {
    "efficientnet-lite0": "efficientnet:prepare",
    "minilm": "minilm:prepare",
    "digits": "students:digits",
    "fashion-mnist": "students:fashion_mnist",
    "cifar10": "students:cifar10",
}
LIBRARIES = ["numpy", "onnx", "onnxruntime", "torch", "nncf", "onnxsim"]
SECONDS = 6  # of the timed runs of each file


def open_file(path: Path, *, exact: bool) -> onnxruntime.InferenceSession:
    """Open a file; exact: integers as VNNI and ARM compute them, with nothing fused, so that nothing saturates."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure(study: Study, tool: str, path: Path, expected: Answers) -> dict[str, Any]:
    """Make a tool's file and return its figures, or the tool's error.

    They are of this machine's arithmetic, or of exact integers where the file is for ARM.
    """
    command = [sys.executable, str(HERE / "tools.py"), tool, str(study.fp32), str(study.calibration), str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        return {"tool": tool, "failed": ran.stderr.strip().splitlines()[-1]}
    foreign = tool.endswith("arm64-dotprod")
    found = study.judge.answer(open_file(path, exact=foreign))
    target = TARGETS["arm64-dotprod"] if foreign else detect_host()
    timed = edgekd.bench([study.fp32, path], duration_s=SECONDS, repeats=6, data=study.timed).to_json()
    return {
        "tool": tool,
        "arithmetic": "exact integers" if foreign else target.name,
        **study.judge.figures(found, expected),
        "can_saturate": certify(onnx.load(path), target).to_json()["can_saturate"],
        "file_bytes": path.stat().st_size,
        **json.loads(ran.stdout.splitlines()[-1]),
        "latency_ratio": timed["models"][1]["ratio_to_first"],
        "conditions": timed["conditions"]["verdict"],
    }


def run(name: str) -> dict[str, Any]:
    """Return the results of a study."""
    module, function = STUDIES[name].split(":")
    prepare: Callable[[Path], Study] = getattr(importlib.import_module(module), function)
    with tempfile.TemporaryDirectory() as folder:
        study = prepare(Path(folder))
        expected = study.judge.answer(open_file(study.fp32, exact=False))
        rows = []
        for number, tool in enumerate(study.tools):
            rows.append(measure(study, tool, Path(folder) / f"{number}.onnx", expected))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        return {
            "samples": study.judge.counts,
            "versions": library_versions(LIBRARIES),
            "fp32": {**study.judge.figures(expected, expected), "file_bytes": study.fp32.stat().st_size},
            "rows": rows,
        }


def main(names: list[str]) -> None:
    """Run studies, keep their results and print their tables."""
    unknown = [name for name in names if name not in STUDIES]
    if unknown:
        raise SystemExit(f"no such study: {', '.join(unknown)}; there are {', '.join(STUDIES)}")
    host = detect_host().name
    path = HERE / f"results-{host}.json"
    for name in names or STUDIES:
        result = run(name)
        before = json.loads(path.read_text())["studies"] if path.exists() else {}
        write_json(
            path,
            {
                "schema": "edgekd.benchmark/1",
                "study": "quantize",
                "target": host,
                "studies": {**before, name: result},
            },
        )
        print_table(name, result)


def print_table(name: str, result: dict[str, Any]) -> None:
    """Print a table of the README."""
    figures = [key for key in result["fp32"] if key not in ("file_bytes", "batch_dependence")]
    heads = [*(key.replace("_", " ") for key in figures), "can saturate", "latency / fp32", "seconds", "peak MB"]
    print(f"\n{name}\n\n| tool | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    fp32 = ["-" if result["fp32"][key] is None else f"{result['fp32'][key]:.4g}" for key in figures]
    print(f"| fp32 | {' | '.join([*fp32, '-', '1', '-', '-'])} |")
    for row in result["rows"]:
        if "failed" in row:
            print(f"| {row['tool']} | failed: {row['failed']} |{' |' * (len(heads) - 1)}")
            continue
        ratio = row["latency_ratio"]
        cells = [
            *(f"{row[key]:.4g}" for key in figures),
            str(row["can_saturate"]),
            f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})",
            f"{row['seconds']:.0f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
        ]
        print(f"| {row['tool']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
