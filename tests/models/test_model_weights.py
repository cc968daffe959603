from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from edgekd.errors import ModelError
from edgekd.models import build, count_parameters, dump_weights, load_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Touches:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self.path).touch, (self.path,)


def small(classes: int = 10) -> nn.Module:
    return build("resnet8x0.25", classes=classes, shape=(1, 8, 8))


@pytest.fixture
def source() -> nn.Module:
    torch.manual_seed(1)
    model = small()
    model(torch.randn(8, 1, 8, 8))  # batch-norm statistics that differ from the first ones
    return model


def assert_equal_state(one: nn.Module, other: nn.Module) -> None:
    expected = other.state_dict()
    assert one.state_dict().keys() == expected.keys()
    for key, value in one.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


def refused(path: Path, match: str, module: nn.Module | None = None) -> str:
    """Load `path`, see that it fails with one ModelError and that the module stays as it was."""
    module = module or small()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(ModelError, match=match) as caught:
        load_weights(module, path)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_shared_parameter_counts_once() -> None:
    layer = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(layer, layer)) == 12


def test_safetensors_round_trip(source: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(dump_weights(source))
    model = small()
    load_weights(model, tmp_path / "w.safetensors")
    assert_equal_state(model, source)
    assert dump_weights(model) == dump_weights(source)


def test_bytes_depend_on_the_weights_alone() -> None:
    class Net(nn.Module):
        def __init__(self, names: str) -> None:
            super().__init__()
            for name in names:
                self.register_parameter(name, nn.Parameter(torch.full((4, 2), float(ord(name))).T))

    assert dump_weights(Net("abc")) == dump_weights(Net("cab"))
    back = safetensors.torch.load(dump_weights(Net("abc")))
    assert back["b"].shape == (2, 4)


def test_tied_weights_are_written_and_read_back(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        net[1].weight = net[0].weight
        return net

    one, other = tied(), tied()
    (tmp_path / "w.safetensors").write_bytes(dump_weights(one))
    load_weights(other, tmp_path / "w.safetensors")
    assert_equal_state(other, one)
    assert other[1].weight is other[0].weight


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "best_acc": torch.tensor(0.7), "optimizer": {"lr": 0.1}},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
        lambda state: {key: value.double() if value.is_floating_point() else value for key, value in state.items()},
    ],
    ids=["plain", "state_dict", "model", "data-parallel", "compiled", "float64"],
)
def test_reads_what_training_scripts_save(
    source: nn.Module, tmp_path: Path, suffix: str, wrap: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    torch.save(wrap(source.state_dict()), tmp_path / f"w{suffix}")
    model = small()
    load_weights(model, tmp_path / f"w{suffix}")
    assert_equal_state(model, source)


def test_reads_the_older_format_of_torch(source: nn.Module, tmp_path: Path) -> None:
    torch.save(source.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    model = small()
    load_weights(model, tmp_path / "w.pth")
    assert_equal_state(model, source)


def test_a_prefix_that_belongs_to_the_module_stays(tmp_path: Path) -> None:
    inner = nn.ModuleDict({"module": nn.Linear(2, 2)})
    (tmp_path / "w.safetensors").write_bytes(dump_weights(inner))
    other = nn.ModuleDict({"module": nn.Linear(2, 2)})
    load_weights(other, tmp_path / "w.safetensors")
    assert_equal_state(other, inner)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_missing_files_and_folders(tmp_path: Path, suffix: str) -> None:
    refused(tmp_path / f"none{suffix}", "no such checkpoint")
    (tmp_path / f"folder{suffix}").mkdir()
    refused(tmp_path / f"folder{suffix}", "cannot read this checkpoint")


def test_other_kinds_of_files_are_named(tmp_path: Path) -> None:
    refused(tmp_path / "model.onnx", r"ends in .safetensors, .pt, .pth, .bin, found '.onnx'")


def test_truncated_files(source: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    whole = dump_weights(source)
    for length in (0, 7, 500, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path, "expected a safetensors file, found .* only part of one")
    for zipped in (True, False):
        torch.save(source.state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
        whole = (tmp_path / "w.pt").read_bytes()
        for length in (0, 7, len(whole) // 2, len(whole) - 1):
            (tmp_path / "w.pt").write_bytes(whole[:length])
            refused(tmp_path / "w.pt", "expected a file of torch.save, found .* only part of one")


@pytest.mark.parametrize(
    "content", [b"hello world\n", b"<!doctype html>", b"\x89PNG\r\n\x1a\n" + bytes(99), bytes(64)]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_files_that_are_no_checkpoint(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"w{suffix}").write_bytes(content)
    message = refused(tmp_path / f"w{suffix}", f"found {len(content)} bytes that are none")
    assert "weights_only" not in message, "torch's advice to switch safety off must not be passed on"


def test_pickles_that_run_code_are_refused_and_not_run(source: nn.Module, tmp_path: Path) -> None:
    trap = tmp_path / "touched"
    torch.save({"model": source.state_dict(), "trap": Touches(trap)}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "holds more than tensors .*could run any code")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("extra", "culprit"), [(argparse.Namespace(lr=0.1), "argparse.Namespace"), (np.float64(0.7), "numpy")]
)
def test_checkpoints_with_objects_inside_are_refused_by_name(
    source: nn.Module, tmp_path: Path, extra: object, culprit: str
) -> None:
    torch.save({"model": source.state_dict(), "extra": extra}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", rf"more than tensors \({culprit}.*save the state dict alone")


def test_whole_modules_and_torchscript_are_refused(source: nn.Module, tmp_path: Path) -> None:
    torch.save(source, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", r"more than tensors \(torch.nn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and still found in the wild
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "s.pt"))
    refused(tmp_path / "s.pt", "found a TorchScript archive")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a state dict .* found list"),
        ({"epoch": 3, "lr": 0.1}, r"no tensors: epoch \(int\), lr \(float\)"),
        ({"model": [1]}, r"no tensors: model \(list\)"),
    ],
)
def test_checkpoints_without_weights(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", message)


def test_missing_unexpected_and_differing_tensors_are_listed(source: nn.Module, tmp_path: Path) -> None:
    state = source.state_dict()
    for key in [key for key in state if key.startswith("layer3")]:
        del state[key]
    state["head.weight"] = torch.zeros(3)
    state["conv1.weight"] = torch.zeros(4, 1, 3, 3, dtype=torch.int8)
    torch.save(state, tmp_path / "w.pt")
    message = refused(tmp_path / "w.pt", "18 missing: layer3.0.conv1.weight, .* and 15 more")
    assert "1 unexpected: head.weight;" in message
    assert "conv1.weight (expected float32 [4, 1, 3, 3], found int8 [4, 1, 3, 3])" in message


def test_another_number_of_classes(source: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(dump_weights(source))
    refused(
        tmp_path / "w.safetensors",
        r"fc.weight \(expected float32 \[100, 16\], found float32 \[10, 16\]\).*same number of classes",
        small(classes=100),
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("key", ["fc.weight", "layer3.0.bn1.running_var"])
def test_weights_that_are_not_finite(source: nn.Module, tmp_path: Path, key: str, value: float) -> None:
    state = source.state_dict()
    state[key] = state[key].double().index_fill(0, torch.tensor(1), value)
    torch.save(state, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", f"1 tensor of .* NaN or infinity as float32: {key}")


def test_weights_that_are_not_finite_are_not_written(source: nn.Module) -> None:
    with torch.no_grad():
        source.get_parameter("fc.bias")[0] = float("nan")
    with pytest.raises(ModelError, match=r"NaN or infinity as float32: fc\.bias"):
        dump_weights(source)
