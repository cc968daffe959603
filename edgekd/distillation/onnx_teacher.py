"""A teacher from an ONNX file: no code of it is needed, features are tapped by the names of its tensors."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import helper

from edgekd.data.samples import ArraySamples
from edgekd.distillation.teacher import Answers
from edgekd.errors import ModelError, UsageError
from edgekd.graph.inputs import LED_IN, lead_in, only_input, reorder_classes
from edgekd.graph.metadata import write_metadata
from edgekd.graph.traces import strip_traces
from edgekd.inference import feed
from edgekd.runtime import open_model, read_self_contained
from edgekd.text import counted, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    from numpy.typing import NDArray
    from torch import Tensor

    from edgekd.data.contract import Contract
    from edgekd.distillation.teacher import Ask
    from edgekd.runtime import Model


class OnnxTeacher:
    """An ONNX file that takes what the student takes. It runs on the CPU."""

    libraries = ("numpy", "onnxruntime")

    def __init__(self, path: str | PathLike[str], content: bytes | None = None) -> None:
        """Read the file; see `adapt` for one whose input is prepared otherwise than the student's.

        Args:
            path: The file.
            content: What to take instead of what it holds: the model as it was adapted.

        Raises:
            ModelError: it is missing, or no ONNX file that onnxruntime can load.
        """
        self._name = str(path)
        self._content = read_self_contained(self._name) if content is None else content
        self.fingerprint = hashlib.sha256(self._content).hexdigest()
        open_model(self._content, name=self._name)

    @contextmanager
    def ready(self, device: torch.device, taps: Sequence[str]) -> Iterator[Ask]:
        """Be ready to be asked; taps are names of tensors in the graph. See `Teacher`."""
        model = open_model(
            _with_outputs(self._content, taps, self._name),
            name=self._name,
            threads=torch.get_num_threads(),
            spinning=False,  # torch works in between
        )

        def ask(inputs: Tensor, positions: Tensor, epoch: int) -> Answers:  # noqa: ARG001
            logits, *features = _run(model, inputs.cpu().numpy(), [model.outputs[0].name, *taps])
            while logits.ndim > 2 and logits.shape[-1] == 1:
                logits = logits[..., 0]
            return Answers(
                torch.from_numpy(logits).to(device), tuple(torch.from_numpy(found).to(device) for found in features)
            )

        yield ask


def adapt(path: str | PathLike[str], data: Contract, own: Contract | None = None) -> onnx.ModelProto:
    """Return an ONNX file's model, changed so that it takes what `data` says and answers in its order of classes.

    Normalisation, colour order and layout are changed in front of the model; the values inside keep their names.

    Args:
        path: The file.
        data: What the student takes.
        own: What the file takes; by default what its metadata say. Its labels, if it has any, are reordered by name.

    Raises:
        ModelError: there is no contract, or the file cannot answer for such samples.
    """
    name = str(path)
    model = onnx.load_model_from_string(read_self_contained(name))
    opened = open_model(model.SerializeToString(), name=name)
    own = own or opened.contract
    if own is None:
        raise ModelError(
            f"{name}: its metadata do not say how its input is prepared; say so in a file, teacher.contract = "
            '"FILE.json" (layout, size, colour, mean, std)'
        )
    strip_traces(model)
    _lead_in(model, own, data, name)
    _order_classes(model, own.labels, data, name)
    write_metadata(model, {"edgekd.contract": json.dumps(data.to_json(), sort_keys=True)})
    return model


def count_parameters(model: onnx.ModelProto) -> int:
    """Return how many floating-point numbers a model holds as weights, what edgekd led in before it aside."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
    own = (tensor for tensor in model.graph.initializer if not tensor.name.startswith(LED_IN))
    return sum(int(np.prod(tensor.dims)) for tensor in own if tensor.data_type in floats)


def _lead_in(model: onnx.ModelProto, own: Contract, data: Contract, name: str) -> None:
    only_input(model, name)
    if own.layout == "as-is" or data.layout == "as-is":
        if own.layout != data.layout or own.shape != data.shape:
            raise ModelError(
                f"{name}: takes {own.layout} samples of shape {own.shape}, the data has {data.layout} ones of "
                f"{data.shape}"
            )
        lead_in(model, data.input, shape=data.shape, scale=np.ones(1, np.float32), shift=np.zeros(1, np.float32))
        return
    if (own.size, own.channels) != (data.size, data.channels):
        raise ModelError(
            f"{name}: takes {own.size[0]}x{own.size[1]} pixels with {own.channels} channels, the data has "
            f"{data.size[0]}x{data.size[1]} with {data.channels}"
        )
    mean, std, our_mean, our_std = (np.asarray(v, np.float64) for v in (own.mean, own.std, data.mean, data.std))
    swapped = own.colour == "BGR"
    if swapped:
        mean, std = mean[::-1], std[::-1]
    lead_in(
        model,
        data.input,
        shape=data.shape,
        scale=(our_std / std).astype(np.float32),
        shift=((our_mean - mean) / std).astype(np.float32),
        channels=(2, 1, 0) if swapped else None,
        channels_last=own.layout == "NHWC",
    )


def _order_classes(model: onnx.ModelProto, own: Sequence[str], data: Contract, name: str) -> None:
    """Put the logits into the data's order of classes and call them as its contract does."""
    order = list(range(len(data.labels)))
    if own:
        missing = sorted({*data.labels} ^ {*own})
        if missing:
            raise ModelError(
                f"{name}: teacher and data must know the same classes; only one of them knows: {', '.join(missing)}"
            )
        order = [own.index(label) for label in data.labels]
    probe = open_model(model.SerializeToString(), name=name)
    logits = _run(probe, np.zeros((2, *data.shape), np.float32), [probe.outputs[0].name])[0]
    if logits.size != 2 * len(order):
        raise ModelError(
            f"{name}: gives logits of shape {('N', *logits.shape[1:])}, the data has {len(order)} classes"
        )
    if order != sorted(order) or model.graph.output[0].name != data.output:
        reorder_classes(model, order, data.output)


def _with_outputs(content: bytes, names: Sequence[str], where: str) -> bytes:
    """Return the model with further outputs: tensors of its graph."""
    if not names:
        return content
    model = onnx.load_model_from_string(content)
    known = {value for node in model.graph.node for value in node.output if value}
    for name in names:
        if name not in known:
            raise UsageError(
                f"distill.taps: {where} has no tensor {name!r}{nearest(name, known)}; a node's outputs can be tapped"
            )
    present = {value.name for value in model.graph.output}
    fresh = [name for name in dict.fromkeys(names) if name not in present]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in fresh)
    whole: bytes = model.SerializeToString()
    return whole


def _run(model: Model, inputs: NDArray[np.float32], outputs: Sequence[str]) -> list[NDArray[Any]]:
    """Return outputs (N, ...) for inputs (N, ...), also where the model takes a fixed number of samples at a time.

    Raises:
        ModelError: it fails, or an output holds no floats or has no axis of samples.
    """
    samples = ArraySamples({model.inputs[0].name: inputs}, name="the batch")
    wanted = list(dict.fromkeys(outputs))
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in wanted}
    for feeds, count in feed(model, samples, len(inputs)):
        fed = len(next(iter(feeds.values())))
        for name, array in zip(wanted, model.run(feeds, wanted), strict=True):
            if array.ndim < 1 or len(array) != fed or not np.issubdtype(array.dtype, np.floating):
                raise ModelError(
                    f"{model.name}: the tensor {name!r} must hold floats of shape (samples, ...), found "
                    f"{array.dtype} of shape {array.shape} for {counted(fed, 'sample')}"
                )
            parts[name].append(array[:count])
    return [np.concatenate(parts[name]).astype(np.float32, copy=False) for name in outputs]
