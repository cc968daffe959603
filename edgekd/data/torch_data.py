"""Batches of tensors for training: the one module of the data room that imports torch."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from edgekd.data.counter_random import Stream, permutation, random_words
from edgekd.errors import DataError, EdgekdError, UsageError
from edgekd.text import counted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from multiprocessing.context import BaseContext

    from numpy.typing import NDArray

    from edgekd.data.samples import Samples

    _Request: TypeAlias = tuple[NDArray[np.int64], NDArray[np.uint64]]  # positions, and a random word for each


LEAST = 2  # samples that batch normalisation needs


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


@dataclass(frozen=True)
class Views:
    """A limited number of augmentations of each sample.

    Attributes:
        count: Epoch e sees what epoch e mod `count` saw.
        seed: Of their augmentation, in place of the one of the order.
    """

    count: int
    seed: int


class Share(NamedTuple):
    """What of each batch is a process's own: a run of samples, as long as the others' or by one shorter.

    Attributes:
        rank: The number of the process.
        size: How many there are.
    """

    rank: int
    size: int

    def of(self, count: int) -> int:
        """Return how many of `count` samples that is."""
        return count // self.size + (self.rank < count % self.size)

    def take(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the share of a batch."""
        return np.array_split(batch, self.size)[self.rank]


ALL = Share(rank=0, size=1)


def check_batch_size(batch_size: int, processes: int) -> None:
    """See that each of several processes gets enough samples of a batch.

    Raises:
        UsageError: it does not.
    """
    if processes > 1 and batch_size < LEAST * processes:
        raise UsageError(
            f"batch_size = {batch_size} is shared out among {processes} processes; it must be {LEAST * processes} or "
            f"more, {LEAST} samples for each"
        )


class TrainingBatches:
    """Shuffled, augmented batches, epoch after epoch.

    Each epoch is a new permutation. With `crop_padding` an image is shifted by up to so many pixels in each
    direction; what comes in is zero, which is the mean pixel after normalisation. With `flip` an image is mirrored,
    left to right, half of the time. All draws are a pure function of (seed, epoch, position): workers and resuming
    change the speed and nothing else. torch's own random state is not touched. With `views` each sample is seen in so
    many views, over and over.

    A step takes `accumulate` batches, and each batch is shared out among the processes of the training. A last,
    smaller batch is kept if it holds at least 2 samples for each of them: batch normalisation needs that many.

    Attributes:
        steps: Steps in an epoch; the last one may have fewer batches.
        samples: How many samples there are.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        seed: int,
        crop_padding: int = 0,
        flip: bool = False,
        views: Views | None = None,
        workers: int = 0,
        accumulate: int = 1,
        share: Share = ALL,
    ) -> None:
        """Prepare to read `samples`, which must have labels and a single input.

        Args:
            samples: What to train on.
            batch_size: Samples in a batch, of all processes together.
            seed: Of the order and the augmentation.
            crop_padding: Largest shift in pixels; images in NCHW only.
            flip: Mirror at random; images in NCHW only.
            views: Augmentations to be repeated; None: a new one in each epoch.
            workers: Processes that read ahead; 0 reads in this process.
            accumulate: Batches in a step.
            share: What of each batch is this process's.

        Raises:
            DataError: there are no labels, or fewer than 2 samples for each process.
            UsageError: several inputs, augmentation of what is no image, or batches too small to be shared out.
        """
        if samples.labels is None:
            raise DataError(f"{samples.name}: training needs labels, the data has none")
        probe = _only_input(samples, np.zeros(1, dtype=np.int64))
        if (crop_padding or flip) and probe.ndim != 4:
            raise UsageError(
                f"{samples.name}: shifting and mirroring are for images of shape (N, channels, height, width), found "
                f"{('N', *probe.shape[1:])}"
            )
        check_batch_size(batch_size, share.size)
        least = LEAST * share.size
        self.samples = len(samples)
        self._batches_each = len(samples) // batch_size + (len(samples) % batch_size >= least)
        self.steps = -(-self._batches_each // accumulate)
        if not self.steps:
            raise DataError(f"{samples.name}: {counted(len(samples), 'sample')}; training needs at least {least}")
        self._labels = samples.labels
        self._inputs = _Inputs(samples, crop_padding, flip)
        self._batch_size = batch_size
        self._accumulate = accumulate
        self._share = share
        self._seed = seed
        self._view_seed = seed if views is None else views.seed
        self._views = None if views is None else views.count
        self._workers = workers

    def weights(self, step: int) -> tuple[float, ...]:
        """Return how much each batch of a step counts here: the mean over processes of the weighed sum is the step's.

        A process's mean over its share of a batch is weighed by the samples in it, against an even share of the step.
        """
        first = step * self._accumulate
        numbers = range(first, min(first + self._accumulate, self._batches_each))
        sizes = [min(self._batch_size, self.samples - number * self._batch_size) for number in numbers]
        return tuple(self._share.of(size) * self._share.size / sum(sizes) for size in sizes)

    def epoch(self, number: int, start_step: int = 0) -> Generator[TensorBatch, None, None]:
        """Yield this process's share of the batches of an epoch, from step `start_step` on.

        Raises:
            DataError: a sample cannot be read or holds NaN; also when a worker process found out.
        """
        count = len(self._labels)
        order = permutation(count, seed=self._seed, stream=Stream.ORDER, epoch=number)
        starts = (batch * self._batch_size for batch in range(start_step * self._accumulate, self._batches_each))
        view = number if self._views is None else number % self._views
        yield from self._batches(
            [self._share.take(order[start : start + self._batch_size]) for start in starts], view
        )

    def view(self, number: int, start: int, stop: int, batch_size: int) -> Iterator[TensorBatch]:
        """Yield the samples at positions `start` to `stop - 1`, in order, augmented as in epoch `number`.

        Raises:
            DataError: a sample cannot be read or holds NaN.
        """
        positions = np.arange(start, stop, dtype=np.int64)
        yield from self._batches(
            [positions[i : i + batch_size] for i in range(0, len(positions), batch_size)], number
        )

    def _batches(self, plan: list[NDArray[np.int64]], view: int) -> Iterator[TensorBatch]:
        words = random_words(len(self._labels), seed=self._view_seed, stream=Stream.AUGMENTATION, epoch=view)
        for positions, inputs in zip(plan, self._read([(p, words[p]) for p in plan]), strict=True):
            yield TensorBatch(inputs, torch.from_numpy(self._labels[positions]), torch.from_numpy(positions))

    def _read(self, plan: list[_Request]) -> Iterator[torch.Tensor]:
        loader = DataLoader(
            self._inputs,
            batch_size=None,
            sampler=plan,
            num_workers=self._workers if plan else 0,
            multiprocessing_context=_context() if self._workers and plan else None,
            generator=torch.Generator(),  # else it draws from torch's global one
        )
        for answer in loader:
            if isinstance(answer, EdgekdError):
                raise answer
            yield answer


class _Inputs(Dataset["torch.Tensor | EdgekdError"]):
    """Reads and augments a batch; lives in this process or in a worker."""

    def __init__(self, samples: Samples, crop_padding: int, flip: bool) -> None:
        self._samples = samples
        self._crop_padding = crop_padding
        self._flip = flip

    def __getitem__(self, request: _Request) -> torch.Tensor | EdgekdError:
        """Return the inputs; an error comes back as a value, since torch would wrap it into a traceback."""
        positions, words = request
        try:
            images = _only_input(self._samples, positions)
        except EdgekdError as error:
            return error
        if self._crop_padding:
            images = shift(images, words, self._crop_padding)
        if self._flip:
            images = mirror(images, words)
        return torch.from_numpy(images)


def shift(images: NDArray[np.float32], words: NDArray[np.uint64], padding: int) -> NDArray[np.float32]:
    """Shift each image by up to `padding` pixels down or up and right or left; zeros come in.

    Args:
        images: Of shape (n, channels, height, width).
        words: Random, of shape (n,); all bits but the highest are used.
        padding: Largest shift in pixels.
    """
    count, _, height, width = images.shape
    span = 2 * padding + 1
    top = ((words & 0xFFFFFFFF) * span) >> 32
    left = (((words >> 32) & 0x7FFFFFFF) * span) >> 31
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    return np.ascontiguousarray(windows[np.arange(count), :, top, left])


def mirror(images: NDArray[np.float32], words: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Mirror, left to right, the images whose word of `words`, of shape (n,), has its highest bit set."""
    chosen = (words >> 63).astype(np.bool_)
    return np.where(chosen[:, None, None, None], images[..., ::-1], images)


def tensor_batches(samples: Samples, batch_size: int) -> Iterator[TensorBatch]:
    """Yield all samples in order and unchanged, for validation.

    Raises:
        DataError: there are no labels, or a sample cannot be read.
    """
    if samples.labels is None:
        raise DataError(f"{samples.name}: labels are needed here, the data has none")
    for start in range(0, len(samples), batch_size):
        positions = np.arange(start, min(start + batch_size, len(samples)), dtype=np.int64)
        inputs = torch.from_numpy(_only_input(samples, positions))
        yield TensorBatch(inputs, torch.from_numpy(samples.labels[positions]), torch.from_numpy(positions))


def _only_input(samples: Samples, positions: NDArray[np.int64]) -> NDArray[np.float32]:
    arrays = samples.batch(positions)
    if len(arrays) != 1:
        raise UsageError(
            f"{samples.name}: training takes one array of inputs, found {len(arrays)}: {', '.join(arrays)}"
        )
    return np.asarray(next(iter(arrays.values())), dtype=np.float32)


def _context() -> BaseContext:
    """Return how workers are started: never by forking this process, whose threads may hold locks."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "torch.utils.data", __name__])  # so each starts at once
    return context
