"""Steps of several batches, and networks that compute in fewer bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.distillation import precision, training
from edgekd.distillation.engine import distill
from edgekd.distillation.objective import LabelObjective
from edgekd.distillation.training import Augmentation, train_network
from edgekd.errors import UsageError
from edgekd.models import dump_weights
from edgekd.recipe import DistillSettings, TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Callable

Digits = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def mlp(seed: int = 0) -> nn.Module:
    """Return a network without batch statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def train(digits: Digits, module: nn.Module, **changed: Any) -> training.Trained:
    settings = TrainingSettings(**{"epochs": 2, "learning_rate": 0.05, **changed})
    return train_network(
        module, *digits, LabelObjective(), settings=settings, augmentation=Augmentation(crop_padding=1), seed=3
    )


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 2), (4, 4), (5, 4), (48, 1)])
def test_batches_that_are_accumulated_are_as_one_that_is_as_large(
    digits: Digits, batch_size: int, accumulate: int
) -> None:
    """48 samples: 5 x 4 leaves a last step of 8, in batches of 5 and 3."""
    whole = train(digits, mlp(), batch_size=batch_size * accumulate)
    parts = train(digits, mlp(), batch_size=batch_size, accumulate=accumulate)
    for one, other in zip(whole.history, parts.history, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
    for one, other in zip(whole.module.parameters(), parts.module.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    small = train(digits, mlp(), batch_size=batch_size)
    assert (dump_weights(small.module) == dump_weights(whole.module)) is (accumulate == 1)


def test_a_teacher_is_accumulated_likewise(digits: Digits) -> None:
    common = {"epochs": 1, "learning_rate": 0.05, "temperature_end": 1.0}
    runs = [
        distill(mlp(), mlp(seed=1), *digits, settings=DistillSettings(**common, **chosen)).module
        for chosen in ({"batch_size": 24}, {"batch_size": 8, "accumulate": 3})
    ]
    for one, other in zip(*(run.parameters() for run in runs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_bf16_computes_in_bf16_and_keeps_weights_and_losses_in_fp32(digits: Digits, net: Any) -> None:
    seen: list[torch.dtype] = []

    class Watching(LabelObjective):
        def __call__(self, step: Any) -> dict[str, torch.Tensor]:
            seen.append(step.logits.dtype)
            return super().__call__(step)

    student = net("resnet8x0.5", 1)
    student.conv1.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    settings = TrainingSettings(epochs=2, batch_size=16, learning_rate=0.05, precision="bf16")
    trained = train_network(student, *digits, Watching(), settings=settings, augmentation=Augmentation(), seed=0)
    assert seen[:2] == [torch.bfloat16, torch.float32]
    assert seen[-1] == torch.float32  # the validation: what ships is fp32
    assert {parameter.dtype for parameter in trained.module.parameters()} == {torch.float32}
    exact = train_network(
        net("resnet8x0.5", 1), *digits, LabelObjective(), augmentation=Augmentation(), seed=0,
        settings=TrainingSettings(epochs=2, batch_size=16, learning_rate=0.05),
    )  # fmt: skip
    assert trained.history[0].loss == pytest.approx(exact.history[0].loss, rel=0.05)
    assert trained.history != exact.history


def test_features_are_compared_in_fp32(digits: Digits, net: Any) -> None:
    settings = DistillSettings.model_validate_json(
        '{"epochs": 4, "batch_size": 16, "learning_rate": 0.02, "warmup": 0, "precision": "bf16",'
        '"terms": [{"kind": "hint"}], "taps": {"pairs": [["layer2", "layer3"]]}}'
    )
    history = distill(net("resnet8x0.25", 1), net("resnet8x0.5"), *digits, settings=settings).history
    assert history[-1].loss < history[0].loss


def test_fp16_needs_a_gpu(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "best_device", lambda: torch.device("cpu"))
    with pytest.raises(UsageError, match='fp16 needs a GPU, and there is none here; take precision = "bf16"'):
        train(digits, mlp(), precision="fp16")


def test_fp16_scales_the_loss_and_skips_steps_that_overflow(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, which torch lets do it: the scale starts so high that the first gradients overflow."""
    monkeypatch.setattr(training, "check_precision", lambda *arguments: None)
    seen: list[torch.Tensor] = []
    module = mlp()
    module.register_forward_hook(lambda module, inputs, output: seen.append(module[1].weight.detach().clone()))
    monkeypatch.setattr(torch.amp.GradScaler, "__init__", scaler_from(torch.amp.GradScaler.__init__))
    trained = train(digits, module, batch_size=16, precision="fp16", warmup=0.0)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[5])
    assert all(np.isfinite(epoch.loss) for epoch in trained.history)


def scaler_from(original: Callable[..., None]) -> Callable[..., None]:
    def start(scaler: Any, device: str, **values: Any) -> None:
        original(scaler, device, init_scale=2.0**40, backoff_factor=2.0**-24, **values)

    return start


def test_computing_in_fp32_changes_nothing() -> None:
    with precision.computing_in("fp32", torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")
