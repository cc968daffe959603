from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import edgekd
from edgekd.data import Contract
from edgekd.errors import DataError, ModelError, OutputError, UsageError
from edgekd.models import build
from edgekd.onnx_export import check_parity, export, export_checkpoint
from edgekd.runtime import open_model

CONTRACT = Contract(
    layout="NCHW", shape=(3, 8, 8), colour="RGB", mean=(0.5,) * 3, std=(0.25,) * 3, labels=("cat", "dog", "owl")
)


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    net = build("resnet8x0.5", classes=3, shape=(3, 8, 8))
    net(torch.randn(16, 3, 8, 8))  # batch statistics that are not those of a fresh net
    return net


def inputs(count: int = 9) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, 8, 8)).astype(np.float32)


def test_the_file_answers_as_torch_does(module: nn.Module, tmp_path: Path) -> None:
    result = export(module, tmp_path / "m.onnx", contract=CONTRACT, inputs=inputs())
    assert module.training  # it is given back as it was
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(inputs(5))).numpy()
    found = open_model(tmp_path / "m.onnx").run({"input": inputs(5)})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert result.parity.samples == 9
    assert result.parity.max_relative < 1e-4
    assert result.parity.agreement == 1.0


def test_the_file_is_clean_and_says_what_it_takes(module: nn.Module) -> None:
    content = export(module, None, contract=CONTRACT, metadata={"edgekd.recipe": "abc"}).content
    for trace in (b"edgekd/", b".py", b"torch.nn", b"site-packages", str(Path.home()).encode()):
        assert trace not in content, trace
    model = onnx.load_from_string(content)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata.keys() == {"edgekd.contract", "edgekd.recipe"}
    assert Contract.from_json(json.loads(metadata["edgekd.contract"]), "m") == CONTRACT
    assert model.ir_version <= 10
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_twice_gives_the_same_bytes(module: nn.Module) -> None:
    assert export(module, None, contract=CONTRACT).content == export(module, None, contract=CONTRACT).content


@pytest.mark.parametrize("opset", [17, 18, 20])
def test_the_opset_is_the_one_asked_for(module: nn.Module, opset: int) -> None:
    model = onnx.load_from_string(export(module, None, contract=CONTRACT, opset=opset).content)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == opset


def test_an_opset_out_of_range(module: nn.Module) -> None:
    with pytest.raises(UsageError, match="17 to 20, found 16"):
        export(module, None, contract=CONTRACT, opset=16)


def test_subnormal_weights_are_flushed_and_counted() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with torch.no_grad():
        net[1].weight[0, :5] = 1e-40  # type: ignore[index]
    result = export(net, None, contract=CONTRACT)
    assert result.flushed_subnormals == 5
    assert result.metrics()["flushed_subnormals"] == 5


def test_nan_fails(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with torch.no_grad():
        net[1].bias[0] = float("nan")  # type: ignore[index]
    with pytest.raises(ModelError, match="NaN"):
        export(net, tmp_path / "m.onnx", contract=CONTRACT)
    assert not (tmp_path / "m.onnx").exists()


def test_a_file_that_answers_otherwise_fails(module: nn.Module) -> None:
    content = export(module, None, contract=CONTRACT).content
    with torch.no_grad():
        module.fc.bias += 1  # type: ignore[operator,union-attr]
    with pytest.raises(ModelError, match="differs from torch's"):
        check_parity(module.eval(), content, inputs(), CONTRACT)


def test_a_module_that_cannot_be_exported_is_an_error_of_one_message() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :3] if float(x.sum()) > 0 else -x.flatten(1)[:, :3]

    with pytest.raises(ModelError) as caught:
        export(Branching(), None, contract=CONTRACT)
    message = str(caught.value)
    assert message.startswith("export: torch cannot export this module: ")
    assert "data-dependent" in message
    assert message.isprintable()  # one line, no colours


def test_an_unwritable_place_keeps_what_was_there(module: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        export(module, tmp_path / "file" / "m.onnx", contract=CONTRACT)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_checkpoint_is_exported_by_its_models_name(module: nn.Module, tmp_path: Path) -> None:
    from edgekd.models import dump_weights

    (tmp_path / "w.safetensors").write_bytes(dump_weights(module))
    found = export_checkpoint(tmp_path / "w.safetensors", tmp_path / "m.onnx", model="resnet8x0.5", contract=CONTRACT)
    assert found.content == edgekd.export(module, None, contract=CONTRACT).content


class Faulty(nn.Module):
    """Gives 3 logits for images of 64 pixels, but for one fault."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fc = nn.Linear(64, 3)
        self.fault = fault

    def forward(self, x: torch.Tensor) -> object:
        if self.fault == "raises":
            raise KeyError("no such stage")
        logits = self.fc(x.flatten(1))
        return (logits, x) if self.fault == "tuple" else logits


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", r"^export: the module cannot take inputs of shape \(2, .*\): KeyError: 'no such stage'$"),
        ("tuple", "one tensor of logits, found tuple"),
    ],
)
def test_a_module_whose_own_code_fails_is_a_model_error(fault: str, message: str) -> None:
    contract = Contract(layout="as-is", shape=(64,))
    with pytest.raises(ModelError, match=message):
        export(Faulty(fault), None, contract=contract)


def test_there_is_a_logit_for_each_label() -> None:
    contract = Contract(layout="as-is", shape=(64,), labels=("a", "b"))
    with pytest.raises(ModelError, match=r"names 2 labels, the module's logits have shape \(2, 3\)"):
        export(Faulty(), None, contract=contract)


def test_every_layer_gets_its_own_mode_back() -> None:
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3))
    module[1].eval()
    export(module, None, contract=Contract(layout="as-is", shape=(64,)))
    assert [layer.training for layer in module.modules()] == [True, True, False, True]


@pytest.mark.parametrize("samples", [np.zeros((1, 64)), np.zeros((4, 63)), [["a"] * 64] * 2, [[1.0], [1.0, 2.0]]])
def test_inputs_that_do_not_fit_are_a_data_error(samples: object) -> None:
    with pytest.raises(DataError, match="export: the inputs"):
        export(Faulty(), None, contract=Contract(layout="as-is", shape=(64,)), inputs=samples)  # type: ignore[arg-type]


def test_lists_and_float64_are_taken_as_float32() -> None:
    values = np.random.default_rng(0).normal(size=(4, 64))
    for samples in (values, values.tolist()):
        found = export(Faulty(), None, contract=Contract(layout="as-is", shape=(64,)), inputs=samples)
        assert found.parity.samples == 4


def test_foreign_metadata_keys_are_refused() -> None:
    with pytest.raises(UsageError, match=r"starts with 'edgekd\.', found 'author'"):
        export(Faulty(), None, contract=Contract(layout="as-is", shape=(64,)), metadata={"author": "me"})
