from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from edgekd.errors import ModelError, UsageError
from edgekd.models import NAMES, build, count_parameters, source_digest


@pytest.mark.parametrize("name", NAMES)
def test_every_suggested_name_is_a_model(name: str) -> None:
    with torch.device("meta"):
        assert isinstance(build(name, classes=10, shape=(1, 8, 8)).get_submodule("fc"), nn.Linear)
    assert source_digest(name) is None


def test_mlp_flattens_and_has_the_hidden_widths_of_its_name() -> None:
    model = build("mlp-256-128", classes=10, shape=(1, 8, 8))
    assert count_parameters(model) == 65 * 256 + 257 * 128 + 129 * 10
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert model.get_submodule("layer2")(torch.randn(3, 256)).min() >= 0
    assert build("mlp-8", classes=2, shape=(5,))(torch.zeros(3, 5)).shape == (3, 2)


@pytest.mark.parametrize(
    ("name", "suggested"),
    [("resnt20", "resnet20"), ("ResNet-56", "resnet56"), ("mobilenet", "mobilenetv2"), ("wrn_40_2", "wrn-40-2")],
)
def test_unknown_name_suggests_the_nearest_and_lists_the_forms(name: str, suggested: str) -> None:
    for call in (lambda: build(name, classes=10, shape=(3, 32, 32)), lambda: source_digest(name)):
        with pytest.raises(UsageError) as caught:
            call()
        message = str(caught.value)
        assert f"perhaps you meant '{suggested}'?" in message
        for form in ("resnetDxK", "wrn-D-K", "mobilenetv2-xK", "mlp-A-B", "package.module:factory"):
            assert form in message


@pytest.mark.parametrize(
    "name", ["", "mlp", "mlp-", "mlp-8-", "resnet8x", "resnet8x.5", "resnet8 ", "wrn-16", "resnet²"]
)
def test_half_a_name_is_none(name: str) -> None:
    with pytest.raises(UsageError, match="no model is named"):
        build(name, classes=10, shape=(3, 32, 32))


@pytest.mark.parametrize(
    ("name", "classes", "shape", "message"),
    [
        ("resnet8", 1, (3, 32, 32), "at least 2 of them, found 1"),
        ("resnet8", 10, (), "must be positive"),
        ("mlp-8", 10, (3, 0), r"must be positive, found shape \(3, 0\)"),
        ("resnet8", 10, (64,), r"shape \(channels, height, width\).* found \(64,\)"),
        ("wrn-16-1", 10, (32, 32, 3), r"at least 4 pixels high and wide, found \(32, 32, 3\)"),
        ("mobilenetv2", 10, (3, 3, 32), "at least 4 pixels"),
    ],
)
def test_refuses_classes_and_shapes_that_do_not_fit(
    name: str, classes: int, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        build(name, classes=classes, shape=shape)


@pytest.mark.parametrize("name", ["mlp-0", "mlp-8-70000"])
def test_refuses_hidden_widths_out_of_bounds(name: str) -> None:
    with pytest.raises(UsageError, match="from 1 to 65536"):
        build(name, classes=10, shape=(4,))


def test_built_in_models_take_no_arguments() -> None:
    with pytest.raises(UsageError, match="takes no arguments, found depth"):
        build("resnet8", classes=10, shape=(3, 8, 8), arguments={"depth": 20})


@pytest.mark.parametrize("module", ["torch", "safetensors"])
def test_missing_package_names_the_extra(module: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from edgekd.errors import MissingExtraError\n"
        "try:\n    import edgekd.models\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'edgekd[train]'" in done.stdout
    assert repr(module) in done.stdout


def test_a_lack_of_memory_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> nn.Module:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory\nframe #0")

    monkeypatch.setattr("edgekd.models.registry.mlp", fail)
    with pytest.raises(
        ModelError, match=r"mlp-8: it cannot be built for samples of shape \(4,\): .*allocate memory$"
    ):
        build("mlp-8", classes=3, shape=(4,))
