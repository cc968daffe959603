"""The verb `evaluate`: what a model file answers.

The file itself is judged, through onnxruntime with all optimizations on, as it will run; on the device that is
named, whose kernels may answer otherwise than this machine's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.artifact import sha256_file
from edgekd.benchmarking.answers import device_answers
from edgekd.devices import load_profile
from edgekd.drivers import open_driver
from edgekd.errors import ModelError
from edgekd.inference import batch_size_for, collect, feed, open_samples, predict
from edgekd.progress import SILENT, Progress
from edgekd.runtime import open_model
from edgekd.scoring import Evaluation, score

if TYPE_CHECKING:
    from edgekd.data import Contract
    from edgekd.data.opening import DataLike


def evaluate(
    model: str | Path,
    data: DataLike,
    *,
    reference: str | Path | None = None,
    contract: Contract | None = None,
    labels: str = "folder",
    device: str = "local",
    progress: Progress = SILENT,
) -> Evaluation:
    """Score a model file on data.

    Args:
        model: Any `.onnx` file.
        data: An `.npz` file or a mapping (arrays named like the model's inputs, first axis = samples, optional
            `labels`), a folder of images, or `RECIPE.toml#split`.
        reference: The file to compare with, usually the fp32 one.
        contract: How images become inputs; by default what the model's own metadata say.
        labels: For a folder of images: `"folder"`, `"prefix"` or the name of a CSV file.
        device: Name of a device profile: where to run. The reference runs here.
        progress: Listener.

    Raises:
        ModelError: a model is missing, damaged, or gives NaN.
        DataError: the data is missing, damaged or does not fit the model.
        UsageError: no such device.
        DeviceError: the device failed.
    """
    profile = load_profile(device)
    opened = open_model(model)
    samples = open_samples(opened, data, contract=contract, labels=labels)
    sha256 = sha256_file(Path(model), ModelError)
    title = f"evaluate {Path(model).name}"
    if profile.driver == "local":
        outputs = predict(opened, samples, title=title, progress=progress)
    else:
        with open_driver(profile) as driver:
            answers = device_answers(driver, Path(model), sha256, feed(opened, samples, batch_size_for(samples)))
            outputs = collect(opened, samples, answers, title=f"{title} on {device}", progress=progress)
    expected = None
    if reference is not None:
        title = f"evaluate {Path(reference).name}"
        expected = predict(open_model(reference), samples, title=title, progress=progress)
    return score(str(model), sha256, outputs, samples.labels, expected, device)
