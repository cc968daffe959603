from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch

from edgekd.data import Contract
from edgekd.distillation import onnx_teacher
from edgekd.distillation.onnx_teacher import OnnxTeacher, adapt, count_parameters
from edgekd.errors import ModelError, UsageError
from edgekd.runtime import open_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PIXELS = np.random.default_rng(3).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
LABELS = ("ant", "bee", "cat", "dog")


def contract(**changed: Any) -> Contract:
    usual: dict[str, Any] = {
        "layout": "NCHW", "shape": (3, 8, 8), "colour": "RGB", "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25),
        "labels": LABELS, "input": "pixels",
    }  # fmt: skip
    return Contract(**{**usual, **changed})


def write(path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, path)
    return path


def ask(path: Path, inputs: np.ndarray, taps: tuple[str, ...] = ()) -> Any:
    with OnnxTeacher(path).ready(torch.device("cpu"), taps) as answer:
        return answer(torch.from_numpy(inputs), torch.arange(len(inputs)), 0)


@pytest.mark.parametrize("batch", ["batch", 2])
def test_answers_and_internal_tensors_are_those_of_the_file(
    tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto], batch: int | str
) -> None:
    model = make_conv_net(batch=batch)
    inputs = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    answers = ask(write(tmp_path / "t.onnx", model), inputs, ("r2", "logits", "f"))
    free = make_conv_net()
    free.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in ("r2", "f"))
    logits, r2, f = open_model(free.SerializeToString()).run({"input": inputs})
    np.testing.assert_allclose(answers.logits.numpy(), logits, rtol=1e-5, atol=1e-6)
    for found, expected in zip(answers.features, (r2, logits, f), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_wrong_tensor_name_names_the_nearest(tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto]) -> None:
    path = write(tmp_path / "t.onnx", make_conv_net())
    with pytest.raises(UsageError, match=r"t\.onnx has no tensor 'logit' \(perhaps you meant 'logits'\?\)"):
        ask(path, np.zeros((2, 3, 8, 8), np.float32), ("logit",))


@pytest.mark.parametrize(
    ("operator", "attributes", "found"),
    [
        ("ReduceMean", {"keepdims": 0}, r"float32 of shape \(\) for 2 samples"),
        ("Transpose", {"perm": [1, 0]}, r"float32 of shape \(4, 2\)"),
        ("ArgMax", {"axis": 1}, r"int64 of shape \(2, 1\)"),
    ],
)
def test_a_tensor_without_an_axis_of_samples_cannot_be_tapped(
    tmp_path: Path,
    make_conv_net: Callable[..., onnx.ModelProto],
    operator: str,
    attributes: dict[str, Any],
    found: str,
) -> None:
    model = make_conv_net()
    model.graph.node.append(onnx.helper.make_node(operator, ["logits"], ["odd"], **attributes))
    with pytest.raises(
        ModelError, match=rf"the tensor 'odd' must hold floats of shape \(samples, ...\), found {found}"
    ):
        ask(write(tmp_path / "t.onnx", model), np.zeros((2, 3, 8, 8), np.float32), ("odd",))


OWN = {
    "the same": {},
    "other normalisation": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
    "BGR": {"colour": "BGR", "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)},
    "other order of classes": {"labels": ("cat", "ant", "dog", "bee"), "std": (1.0, 2.0, 3.0)},
    "no classes": {"labels": ()},
}


@pytest.mark.parametrize("name", ["pixels", "input", "r1", "logits"])
@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
def test_an_adapted_teacher_answers_as_it_would_to_its_own_input(
    tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto], own: dict[str, Any], name: str
) -> None:
    """Whatever the data's input is called: also as a tensor inside the teacher is."""
    path = write(tmp_path / "t.onnx", make_conv_net())
    theirs, data = contract(**own), contract(input=name, output="answer")
    model = adapt(path, data, theirs)
    adapted = open_model(model.SerializeToString())
    expected = open_model(path).run({"input": theirs.prepare(PIXELS)})[0]
    order = [theirs.labels.index(label) for label in LABELS] if theirs.labels else range(4)
    found = adapted.run({name: data.prepare(PIXELS)})[0]
    np.testing.assert_allclose(found, expected[:, order], rtol=1e-4, atol=1e-4)
    assert adapted.contract == data
    assert [value.name for value in adapted.inputs] == [name]
    assert adapted.outputs[0].name == "answer"


def test_a_teacher_with_channels_last_and_float16(
    tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto]
) -> None:
    from onnx import TensorProto, helper

    model = make_conv_net()
    half = helper.make_tensor_value_info("half", TensorProto.FLOAT16, ["batch", 8, 8, 3])
    model.graph.node.insert(0, helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT))
    model.graph.node.insert(1, helper.make_node("Transpose", ["wide"], ["input"], perm=[0, 3, 1, 2]))
    model.graph.input.pop()
    model.graph.input.append(half)
    own, data = contract(layout="NHWC", shape=(8, 8, 3), mean=(0.0,) * 3, std=(1.0,) * 3), contract()
    adapted = open_model(adapt(write(tmp_path / "t.onnx", model), data, own).SerializeToString())
    expected = open_model(tmp_path / "t.onnx").run({"half": own.prepare(PIXELS).astype(np.float16)})[0]
    found = adapted.run({"pixels": data.prepare(PIXELS)})[0]
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)


def test_its_threads_do_not_spin_while_torch_works(
    tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(
        onnx_teacher, "open_model", lambda *given, **values: opened.append(open_model(*given, **values)) or opened[-1]
    )
    ask(write(tmp_path / "t.onnx", make_conv_net()), contract().prepare(PIXELS))
    options = opened[-1].session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.intra_op_num_threads == torch.get_num_threads()


def test_taps_keep_their_names(tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto]) -> None:
    plain = write(tmp_path / "t.onnx", make_conv_net())
    own, data = contract(mean=(0.0,) * 3, std=(1.0,) * 3), contract()
    adapted = write(tmp_path / "a.onnx", adapt(plain, data, own))
    expected = ask(plain, own.prepare(PIXELS), ("r2",)).features[0]
    np.testing.assert_allclose(ask(adapted, data.prepare(PIXELS), ("r2",)).features[0], expected, atol=1e-4)


def test_the_contract_in_the_file_is_used(tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto]) -> None:
    plain = write(tmp_path / "t.onnx", make_conv_net())
    with pytest.raises(ModelError, match=r"t\.onnx: its metadata do not say .* teacher\.contract"):
        adapt(plain, contract())
    once = write(tmp_path / "a.onnx", adapt(plain, contract(input="input"), contract(input="input")))
    other = contract(mean=(0.0,) * 3, std=(1.0,) * 3)
    found = open_model(adapt(once, other).SerializeToString()).run({"pixels": other.prepare(PIXELS)})[0]
    expected = open_model(plain).run({"input": contract().prepare(PIXELS)})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"shape": (3, 9, 8)}, "takes 9x8 pixels with 3 channels, the data has 8x8 with 3"),
        ({"labels": ("ant", "bee", "cat", "eel")}, "only one of them knows: dog, eel"),
        ({"layout": "as-is", "colour": None}, "takes as-is samples"),
        ({"labels": (), "data": {"labels": LABELS[:3]}}, r"logits of shape \('N', 4\), the data has 3 classes"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto], own: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "t.onnx", make_conv_net())
    data = contract(**own.pop("data", {}))
    with pytest.raises(ModelError, match=message):
        adapt(path, data, contract(**own))


def test_parameters_are_counted(make_conv_net: Callable[..., onnx.ModelProto]) -> None:
    assert count_parameters(make_conv_net()) == 8 * 27 + 8 + 64 * 9 + 8 + 32 + 4
