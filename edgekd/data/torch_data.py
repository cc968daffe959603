"""Batches of tensors for training: the one module of the data room that imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgekd.data.samples import Samples


class TensorBatch(NamedTuple):
    """Samples of one step.

    Attributes:
        inputs: float32 of shape (n, *sample).
        labels: int64 of shape (n,).
        positions: int64 of shape (n,): which samples these are, so that a teacher's answers can be looked up.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor


class TrainingBatches:
    """Shuffled, augmented batches, epoch after epoch.

    Each epoch is a new permutation. With `crop_padding` an image is shifted by up to so many pixels in each
    direction; what comes in is zero, which is the mean pixel after normalisation. With `flip` every other image is
    mirrored, left to right. All draws are a pure function of (seed, epoch, position): workers and resuming change
    the speed and nothing else. torch's own random state is not touched.

    A last, smaller batch is kept if it holds at least 2 samples: batch normalisation needs that many.

    Attributes:
        steps: Batches in an epoch.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        seed: int,
        crop_padding: int = 0,
        flip: bool = False,
        workers: int = 0,
    ) -> None:
        """Prepare to read `samples`, which must have labels and a single input.

        Args:
            samples: What to train on.
            batch_size: Samples in a step.
            seed: Of the order and the augmentation.
            crop_padding: Largest shift in pixels; images in NCHW only.
            flip: Mirror at random; images in NCHW only.
            workers: Processes that read ahead; 0 reads in this process.

        Raises:
            DataError: there are no labels, or fewer than 2 samples.
            UsageError: several inputs, or augmentation of what is no image.
        """
        raise NotImplementedError

    def epoch(self, number: int, start_step: int = 0) -> Iterator[TensorBatch]:
        """Yield the batches `start_step`, `start_step + 1`, ... of an epoch.

        Raises:
            DataError: a sample cannot be read or holds NaN; also when a worker process found out.
        """
        raise NotImplementedError


def tensor_batches(samples: Samples, batch_size: int) -> Iterator[TensorBatch]:
    """Yield all labelled samples in order, unchanged: for validation."""
    raise NotImplementedError
