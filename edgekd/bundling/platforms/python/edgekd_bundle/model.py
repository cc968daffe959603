# SPDX-License-Identifier: Apache-2.0
"""The model of a bundle that is right on this CPU, open."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekd_bundle.checks import Bundle, BundleError, read_bundle
from edgekd_bundle.targets import host_target

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read by onnxruntime at its first import

import numpy as np
import onnxruntime


if TYPE_CHECKING:
    from edgekd_bundle.checks import Folder
    from edgekd_bundle.texts import Tokenizer

_LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class Score(NamedTuple):
    """A class and how probable it is."""

    label: str
    probability: float


class Model:
    """A model and how its inputs are made.

    Attributes:
        bundle: Where it is from.
        target: The instruction set that it was chosen for.
        path: Its file in the bundle.
    """

    def __init__(self, bundle: Bundle, target: str, path: str, session: Any) -> None:
        self.bundle, self.target, self.path = bundle, target, path
        self._session = session
        self._tokenizer: Tokenizer | None = None
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs by name."""
        return dict(zip(self._outputs, self._session.run(None, inputs)))

    def prepare(self, pixels: Any) -> dict[str, Any]:
        """Return the input that an image makes: uint8, height x width x 3, RGB."""
        image = self.bundle.get("image", kind=(dict, type(None)))
        if image is None:
            raise BundleError("this bundle's model does not take an image; use run()")
        from edgekd_bundle.images import prepare_image

        return {self.bundle.get("inputs", 0, "name", kind=str): prepare_image(pixels, image)}

    def prepare_text(self, text: str) -> dict[str, Any]:
        """Return the inputs that a text makes."""
        if self._tokenizer is None:
            if self.bundle.get("text", kind=(dict, type(None))) is None:
                raise BundleError("this bundle's model does not take a text; use run()")
            from edgekd_bundle.texts import Tokenizer

            self._tokenizer = Tokenizer(self.bundle)
        return self._tokenizer.inputs(text)

    def classify(self, pixels: Any, top: int = 5) -> list[Score]:
        """Return the most probable classes of an image, the best first."""
        return self.scores(self.run(self.prepare(pixels))[self._outputs[0]], top)

    def scores(self, logits: Any, top: int = 5) -> list[Score]:
        """Return the most probable classes of one sample's logits by softmax; equal ones by class number."""
        values = np.asarray(logits, dtype=np.float64).ravel()
        powers = np.exp(values - values.max())
        shares = powers / powers.sum()
        labels = self.bundle.get("labels", kind=list)
        best = np.argsort(-values, kind="stable")[:top]
        return [Score(labels[n] if n < len(labels) else str(n), float(shares[n])) for n in best]


def open_bundle(folder: Folder, public_key: str | None = None) -> Model:
    """Open the model that a bundle has for this CPU, once it is known to be whole.

    Args:
        folder: The bundle.
        public_key: 64 hexadecimal digits: only a bundle that is signed with this key is opened.

    Raises:
        BundleError: the bundle is damaged or from the future, onnxruntime too old, or no model is right here.
    """
    bundle = read_bundle(folder, public_key)
    require_runtime(bundle)
    target = host_target()
    return open_model(bundle, target, chosen_model(bundle, target))


def require_runtime(bundle: Bundle) -> None:
    """Refuse an onnxruntime that does not read the models."""
    least = bundle.get("runtime", "onnxruntime", "least", kind=str)
    if _numbers(onnxruntime.__version__) < _numbers(least):
        raise BundleError(f"onnxruntime {onnxruntime.__version__} is too old for these models, which need {least}")


def chosen_model(bundle: Bundle, target: str) -> str:
    """Return the path of the model that is right on a target."""
    if target not in bundle.get("targets"):
        raise BundleError(f"no model in this bundle is right on {target}")
    path: str = bundle.get("targets", target, "model", kind=str)
    return path


def open_model(bundle: Bundle, target: str, path: str) -> Model:
    """Check a model's file and open it."""
    place = bundle.whole_file(path)
    settings = next(
        (entry["session"] for entry in bundle.get("variants", kind=list) if entry.get("path") == path), None
    )
    if settings is None:
        raise BundleError("edgekd-bundle.json: variants is not as edgekd.bundle/1 has it")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings["intra_op_num_threads"]
    options.enable_cpu_mem_arena = settings["enable_cpu_mem_arena"]
    options.graph_optimization_level = _LEVELS[settings["graph_optimization_level"]]
    if not settings["intra_op_spinning"]:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(place), options, providers=["CPUExecutionProvider"])
    return Model(bundle, target, path, session)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split("+")[0].split(".") if part.isdigit()]
