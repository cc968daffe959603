"""Distillation without data: images made from what a teacher remembers of its training in its batch normalisations.

DeepInversion (Yin et al. 2020, arXiv:1912.08795): noise is optimised until the teacher sees a given class in it, and
until the statistics of every batch normalisation's input are those that the teacher kept.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from edgekd.data.samples import ArraySamples
from edgekd.distillation.running import best_device, frozen, placed, run_logits
from edgekd.errors import ModelError, UsageError
from edgekd.progress import SILENT, Progress
from edgekd.terms import SynthesisSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

Normalisation: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


def synthesise(
    teacher: nn.Module,
    shape: tuple[int, ...],
    *,
    settings: SynthesisSettings | None = None,
    seed: int = 0,
    name: str = "input",
    progress: Progress = SILENT,
) -> ArraySamples:
    """Make images that a teacher takes for samples of its classes, as many of each.

    Args:
        teacher: A torch module with batch normalisation that kept its statistics; it takes float32 (N, *shape), gives
            logits (N, classes). It is frozen and in eval mode meanwhile.
        shape: Of one sample.
        settings: How; the defaults of the recipe's `[distill.data_free]`.
        seed: Of the noise that is begun with.
        name: Of the array of samples.
        progress: Listener.

    Returns:
        Samples with labels: float32 (samples, *shape), the class each was made for.

    Raises:
        UsageError: the teacher is no torch module.
        ModelError: it has no batch normalisation with statistics, or they lead to values that are not finite.
    """
    settings = settings or SynthesisSettings()
    require_statistics(teacher)
    device = best_device()
    noise = torch.Generator().manual_seed(seed)
    sizes = [
        len(part) for part in np.array_split(np.arange(settings.samples), -(-settings.samples // settings.batch))
    ]
    made: list[Tensor] = []
    with frozen(teacher), placed(teacher, device), torch.random.fork_rng():
        classes = run_logits(teacher, torch.zeros(2, *shape, device=device), "the teacher").shape[1]
        labels = torch.arange(settings.samples) % classes
        with progress.task("make images from the teacher", len(sizes) * settings.steps) as task:
            for number, size in enumerate(sizes):
                wanted = labels[sum(sizes[:number]) :][:size].to(device)
                begun = torch.randn(size, *shape, generator=noise).to(device)
                made.append(_invert(teacher, begun, wanted, settings, lambda: task.advance(1)).cpu())
    images = torch.cat(made).numpy()
    if not np.isfinite(images).all():
        raise ModelError("images made from the teacher hold NaN or infinity; lower distill.data_free.learning_rate")
    return ArraySamples({name: images, "labels": labels.numpy()}, name="made from the teacher")


def require_statistics(teacher: Any) -> None:
    """See that images can be made from a teacher; see `synthesise` for the errors."""
    if not isinstance(teacher, nn.Module):
        raise UsageError(
            "images are made from a torch teacher's batch normalisations; an ONNX file or stored answers give no "
            "gradients and have their statistics folded away: name the network and its checkpoint"
        )
    if not _normalisations(teacher):
        raise ModelError(
            f"{type(teacher).__name__} has no batch normalisation with running statistics: it remembers nothing of "
            "its data that images could be made from; take a teacher that has, or transfer data"
        )


def statistics_loss(mean: Tensor, variance: Tensor, layer: Normalisation) -> Tensor:
    """Return how far a batch is from what a layer remembers: the L2 distance of the means plus that of the variances.

    Args:
        mean: Of the layer's input, shape (channels,).
        variance: Likewise, biased.
        layer: With running statistics.
    """
    assert layer.running_mean is not None
    assert layer.running_var is not None
    means: Tensor = torch.linalg.vector_norm(mean - layer.running_mean)
    variances: Tensor = torch.linalg.vector_norm(variance - layer.running_var)
    return means + variances


def roughness(images: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels (total variation); 0 for what is no image.

    Args:
        images: Shape (N, channels, height, width), or any other.
    """
    if images.ndim != 4 or min(images.shape[2:]) < 2:
        return images.new_zeros(())
    return images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean()


def _normalisations(module: nn.Module) -> list[Normalisation]:
    return [layer for layer in module.modules() if isinstance(layer, Normalisation) and layer.track_running_stats]


def _invert(
    teacher: nn.Module, images: Tensor, labels: Tensor, settings: SynthesisSettings, advance: Callable[[], None]
) -> Tensor:
    """Return a batch of images (N, *shape) for labels (N,), begun with `images`."""
    images = images.requires_grad_()
    optimizer = torch.optim.Adam([images], lr=settings.learning_rate, betas=(0.5, 0.9))
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    with _distances(teacher) as distances:
        for _ in range(settings.steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(run_logits(teacher, images, "the teacher"), labels)
            if not distances:
                raise ModelError(
                    f"no batch normalisation of {type(teacher).__name__} runs in a forward pass: what it remembers "
                    "cannot be compared; take a teacher that uses them, or transfer data"
                )
            loss = loss + settings.statistics * torch.stack(distances).sum() + settings.smoothness * roughness(images)
            distances.clear()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rates.step()
            advance()
    return images.detach()


@contextmanager
def _distances(module: nn.Module) -> Iterator[list[Tensor]]:
    """Give a list to which every batch normalisation adds its `statistics_loss` in a forward pass."""
    found: list[Tensor] = []

    def measure(layer: Any, inputs: Sequence[Tensor], output: Tensor) -> None:  # noqa: ARG001
        axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
        variance, mean = torch.var_mean(inputs[0], dim=axes, correction=0)
        found.append(statistics_loss(mean, variance, layer))

    with ExitStack() as hooks:
        for layer in _normalisations(module):
            hooks.callback(layer.register_forward_hook(measure).remove)
        yield found
