"""The image nets against the literature: parameter counts, stage shapes, wiring, first weights."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from edgekd.errors import UsageError
from edgekd.models import build, count_parameters
from edgekd.models.resnet import widths

# Trainable parameters at 100 classes and 3 channels, as the nets of RepDistiller have them
# (github.com/HobbitLong/RepDistiller, models/resnet.py, wrn.py, mobilenetv2.py). The papers round the same nets at
# 10 classes: ResNet-20, 32, 56, 110 have 0.27, 0.46, 0.85, 1.7 million (He et al. 2015, table 6), WRN-40-1 and
# WRN-40-2 have 0.6 and 2.2 (Zagoruyko, Komodakis 2016, section 3).
LITERATURE = {
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn-16-2": 703_284,
    "wrn-40-1": 569_780,
    "wrn-40-2": 2_255_156,
    "mobilenetv2-x0.5": 812_836,
}
FEATURES_AT_32 = {
    "resnet8": {"layer1": (16, 32), "layer2": (32, 16), "layer3": (64, 8)},
    "resnet8x4": {"layer1": (64, 32), "layer2": (128, 16), "layer3": (256, 8)},
    "resnet8x0.25": {"layer1": (4, 32), "layer2": (8, 16), "layer3": (16, 8)},
    "wrn-10-2": {"layer1": (32, 32), "layer2": (64, 16), "layer3": (128, 8)},
    "mobilenetv2-x0.5": {"layer2": (12, 16), "layer3": (16, 8), "layer5": (48, 4), "layer7": (160, 2)},
}
SMALL = ("resnet8", "resnet8x4", "resnet8x0.375", "wrn-16-1", "wrn-16-2", "mobilenetv2-x0.5")


@pytest.mark.parametrize(("name", "parameters"), LITERATURE.items())
def test_has_as_many_parameters_as_in_the_literature(name: str, parameters: int) -> None:
    assert count_parameters(build(name, classes=100, shape=(3, 32, 32))) == parameters


def test_paper_layer_tables_give_the_same_counts() -> None:
    """Count by hand from the papers' tables: convolutions, two numbers a batch-norm channel, the last layer."""

    def resnet(blocks: int, stem: int, first: int) -> int:
        total, inputs = 3 * 9 * stem + 2 * stem, stem
        for outputs in (first, 2 * first, 4 * first):
            total += 9 * outputs * (inputs + (2 * blocks - 1) * outputs) + 4 * blocks * outputs
            total += (inputs * outputs + 2 * outputs) if inputs != outputs else 0
            inputs = outputs
        return total + (inputs + 1) * 100

    assert resnet(3, 16, 16) == LITERATURE["resnet20"]
    assert resnet(1, 32, 64) == LITERATURE["resnet8x4"]
    assert resnet(5, 32, 64) == LITERATURE["resnet32x4"]


@pytest.mark.parametrize(("name", "features"), FEATURES_AT_32.items())
def test_features_have_stable_paths_and_shapes(name: str, features: dict[str, tuple[int, int]]) -> None:
    model = build(name, classes=7, shape=(3, 32, 32)).eval()
    found = {}
    for path in features:
        model.get_submodule(path).register_forward_hook(
            lambda module, inputs, output, path=path: found.update({path: (output.shape[1], output.shape[2])})
        )
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert found == features
    assert isinstance(model.get_submodule("fc"), nn.Linear)
    assert list(dict(model.named_children()))[-1] == "fc"


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 14), (4, 4, 4)])
def test_takes_images_of_any_size(name: str, shape: tuple[int, int, int]) -> None:
    assert build(name, classes=10, shape=shape).eval()(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("name", SMALL)
def test_calls_every_module_once_and_reaches_every_parameter(name: str) -> None:
    """A feature tap or a quantizer that names a module means one tensor."""
    model = build(name, classes=10, shape=(1, 16, 16))
    calls: Counter[str] = Counter()
    for path, module in model.named_modules():
        module.register_forward_hook(lambda module, inputs, output, path=path: calls.update([path]))
    model(torch.randn(4, 1, 16, 16)).square().sum().backward()
    assert calls == dict.fromkeys(dict(model.named_modules()), 1)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_first_weights_are_those_of_the_literature(name: str) -> None:
    torch.manual_seed(0)
    for module in build(name, classes=10, shape=(3, 32, 32)).modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.bias is None
            if module.weight.numel() > 1000:
                assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())
            assert not module.bias.any()


def test_same_seed_gives_the_same_model() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build("resnet8x0.5", classes=10, shape=(1, 8, 8)).state_dict())
    assert all(torch.equal(value, models[1][key]) for key, value in models[0].items())


def test_resnet_parameters_are_named_as_in_repdistiller() -> None:
    keys = build("resnet8x4", classes=100, shape=(3, 32, 32)).state_dict().keys()
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer1.0.bn2.bias",
        "layer1.0.downsample.0.weight",
        "layer3.0.downsample.1.running_var",
        "fc.bias",
    } <= set(keys)
    assert "layer1.0.downsample.0.weight" not in build("resnet8", classes=10, shape=(3, 8, 8)).state_dict()


def test_resnet_block_equals_its_formula() -> None:
    block = build("resnet8", classes=10, shape=(3, 8, 8)).eval().get_submodule("layer2.0")
    x = torch.randn(2, 16, 8, 8)
    branch = block.bn2(block.conv2(block.bn1(block.conv1(x)).clamp(min=0)))
    torch.testing.assert_close(block(x), (branch + block.downsample(x)).clamp(min=0))


@pytest.mark.parametrize(("layer", "inputs"), [("layer1.0", 16), ("layer2.0", 16)])
def test_wide_resnet_projects_the_activated_input_only_where_channels_change(layer: str, inputs: int) -> None:
    block = build("wrn-10-1", classes=10, shape=(3, 8, 8)).eval().get_submodule(layer)
    x = torch.randn(2, inputs, 8, 8)
    activated = block.bn1(x).clamp(min=0)
    branch = block.conv2(block.bn2(block.conv1(activated)).clamp(min=0))
    assert (block.projection is None) == (layer == "layer1.0")
    torch.testing.assert_close(block(x), branch + (x if block.projection is None else block.projection(activated)))


def test_mobilenet_adds_the_input_just_where_shapes_agree() -> None:
    model = build("mobilenetv2", classes=10, shape=(3, 32, 32)).eval()
    adding = [path for path, module in model.named_modules() if getattr(module, "adds_input", False)]
    assert adding == [
        "layer2.1",
        *(f"layer{s}.{b}" for s, n in ((3, 3), (4, 4), (5, 3), (6, 3)) for b in range(1, n)),
    ]
    x = torch.randn(1, 24, 4, 4)
    block = model.get_submodule("layer2.1")
    torch.testing.assert_close(block(x), x + block.conv(x))


@pytest.mark.parametrize(
    ("multiplier", "channels"),
    [
        (0.25, (4, 4, 8, 16)),
        (0.5, (8, 8, 16, 32)),
        (1.0, (16, 16, 32, 64)),
        (2.0, (24, 32, 64, 128)),
        (4.0, (32, 64, 128, 256)),
    ],
)
def test_resnet_widths(multiplier: float, channels: tuple[int, ...]) -> None:
    assert widths(multiplier) == channels


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "6n.2 .8, 14, 20, .* found 18; the nearest is 20"),
        ("resnet2", "the nearest is 8"),
        ("resnet9999", "the nearest is 1202"),
        ("resnet8x0.3", "a multiple of 0.125 .* found 0.3"),
        ("resnet8x0", "a multiple of 0.125"),
        ("wrn-41-2", "6n.4 .* found 41; the nearest is 40"),
        ("wrn-16-0", "from 1 to 16, found 0"),
        ("mobilenetv2-x0.1", "from 0.25 to 4, found 0.1"),
    ],
)
def test_refuses_sizes_that_do_not_exist(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(name, classes=10, shape=(3, 32, 32))
