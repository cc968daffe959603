from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekd.distillation.adapters import Adapter, same_places
from edgekd.distillation.taps import require_samples_first, tapped
from edgekd.errors import ModelError, UsageError
from edgekd.models import build


def hooks(module: nn.Module) -> int:
    return sum(len(child._forward_hooks) for child in module.modules())


def test_features_are_those_of_the_named_modules() -> None:
    net = build("resnet8x0.25", classes=3, shape=(1, 8, 8)).eval()
    x = torch.randn(2, 1, 8, 8)
    with tapped(net, ["layer2", "layer1.0.relu1", "layer2"]) as taps:
        logits = net(x)
        again, inner, same = taps.take()
    expected = net.layer1(net.relu(net.bn1(net.conv1(x))))  # type: ignore[operator]
    torch.testing.assert_close(again, net.layer2(expected))  # type: ignore[operator]
    assert same is again
    assert inner.shape == (2, 4, 8, 8)
    torch.testing.assert_close(logits, net(x))


def test_only_this_instance_is_tapped_and_hooks_are_gone_whatever_happens() -> None:
    one, other = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3))
    with tapped(one, ["0"]):
        assert (hooks(one), hooks(other)) == (1, 0)
    assert hooks(one) == 0
    with pytest.raises(RuntimeError), tapped(one, ["0"]):
        one(torch.zeros(2, 7))
    assert hooks(one) == 0
    with pytest.raises(UsageError), tapped(one, ["0", "1"]):
        raise AssertionError
    assert hooks(one) == 0


def test_a_feature_is_taken_once_and_the_last_call_counts() -> None:
    net = nn.Sequential(nn.Linear(3, 3))
    with tapped(net, ["0"]) as taps:
        net(torch.zeros(2, 3))
        last = net(torch.ones(2, 3))
        assert taps.take()[0] is last
        with pytest.raises(ModelError, match="'0' does not run in a forward pass"):
            taps.take()


def test_a_wrong_path_names_the_nearest() -> None:
    net = build("resnet8x0.25", classes=3, shape=(1, 8, 8))
    with pytest.raises(UsageError, match=r"no module 'layer4' in Sequential \(perhaps you meant 'layer\d'\?\)"):
        tapped(net, ["layer4"]).__enter__()


def test_what_gives_no_tensor_cannot_be_tapped() -> None:
    net = nn.Sequential(nn.LSTM(3, 3))
    with tapped(net, ["0"]) as taps:
        net(torch.zeros(2, 4, 3))
        with pytest.raises(ModelError, match=r"'0' must give one tensor of floats .* found tuple"):
            taps.take()


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ((2, 3, 8, 8), (2, 5, 8, 8), (2, 5, 8, 8)),
        ((2, 3, 16, 8), (2, 5, 8, 15), (2, 5, 8, 8)),
        ((2, 3), (2, 5), (2, 5)),
        ((2, 3), (2, 5, 1, 1), (2, 5)),
        ((2, 3, 1, 1), (2, 5), (2, 5)),
        ((2, 7, 3), (2, 7, 5), (2, 7, 5)),
    ],
)
def test_an_adapter_brings_both_to_one_shape(
    student: tuple[int, ...], teacher: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    ours, theirs = Adapter(student, teacher)(torch.randn(student), torch.randn(teacher))
    assert ours.shape == theirs.shape == expected


def test_the_larger_map_is_averaged() -> None:
    large = torch.arange(16.0).reshape(1, 1, 4, 4)
    ours, theirs = same_places(large, torch.zeros(1, 2, 2, 2))
    assert ours.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert theirs.shape == (1, 2, 2, 2)


@pytest.mark.parametrize(
    ("student", "teacher"), [((2, 3, 8, 8), (2, 5)), ((2, 7, 3), (2, 8, 5)), ((2, 3, 4, 4, 4), (2, 3, 4, 4, 4))]
)
def test_features_that_cannot_be_compared_are_refused(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"the student's features have shape \('N', "):
        Adapter(student, teacher)


@pytest.mark.parametrize("shape", [(), (5,), (7, 5, 3)])
def test_features_whose_first_axis_is_not_that_of_the_samples_are_refused(shape: tuple[int, ...]) -> None:
    require_samples_first(["fine"], [(5, 3)], 5)
    with pytest.raises(ModelError, match=r"'turned' gives features of shape \(.*\) for 5 samples"):
        require_samples_first(["fine", "turned"], [(5, 3), shape], 5)
