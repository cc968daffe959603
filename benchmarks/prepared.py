"""The models of the quantization studies with their data and 8-bit files, each made once and kept in a folder."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

QUANTIZE = Path(__file__).parent / "quantize"
sys.path.append(str(QUANTIZE))  # its modules are programs that stand beside each other
MODELS = {
    "EfficientNet-Lite0": "efficientnet:prepare",
    "MiniLM": "minilm:prepare",
    "digits student": "students:digits",
    "Fashion-MNIST student": "students:fashion_mnist",
    "CIFAR-10 student": "students:cifar10",
}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One model.

    Attributes:
        folder: Where its files are.
        timed: An .npz with the sample that is timed; None: made up.
    """

    folder: Path
    timed: Path | None

    @property
    def fp32(self) -> Path:
        """The fp32 file."""
        return self.folder / "fp32.onnx"

    def int8(self, tool: str) -> Path:
        """Return the file of one of the quantization study's tools, which is made if it is not there."""
        path = self.folder / f"{tool}.onnx".replace(" ", "-")
        if not path.exists():
            partial = path.with_suffix(".partial")
            command = [sys.executable, str(QUANTIZE / "tools.py"), tool, str(self.fp32)]
            command += [str(self.folder / "calibration.npz"), str(partial)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            partial.rename(path)
        return path

    def samples(self, count: int) -> dict[str, Any]:
        """Return so many of the samples that judge, drawn with a fixed seed, with their labels if they have any."""
        with np.load(self.folder / "judges.npz") as arrays:
            whole = {name: arrays[name] for name in arrays.files}
        chosen = np.sort(np.random.default_rng(1).permutation(len(next(iter(whole.values()))))[:count])
        return {name: values[chosen] for name, values in whole.items()}


def prepare(name: str, work: Path) -> Prepared:
    """Return a model, which is made in `work` if it is not there."""
    place = work / name.replace(" ", "-")
    if not place.is_dir():
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work) as temporary:
            _make(name, Path(temporary) / "study", Path(temporary) / "kept").rename(place)
    timed = place / "timed.npz"
    return Prepared(folder=place, timed=timed if timed.exists() else None)


def _make(name: str, folder: Path, kept: Path) -> Path:
    folder.mkdir()
    kept.mkdir()
    module, function = MODELS[name].split(":")
    study = getattr(importlib.import_module(module), function)(folder)
    shutil.move(study.fp32, kept / "fp32.onnx")
    shutil.move(study.calibration, kept / "calibration.npz")
    if study.timed:
        shutil.move(study.timed, kept / "timed.npz")
    np.savez(kept / "judges.npz", **_judges(study.judge))
    return kept


def _judges(judge: Any) -> dict[str, Any]:
    """Return the samples of a judge as arrays; those of an encoder have no labels."""
    if hasattr(judge, "asked"):
        return dict(judge.asked)
    return {**judge.samples.batch(range(len(judge.samples))), "labels": judge.samples.labels}
