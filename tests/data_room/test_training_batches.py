"""Batches for training: pure functions of seed, epoch and position."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from edgekd.data import ArraySamples
from edgekd.data.counter_random import Stream, random_words
from edgekd.data.npz import open_npz
from edgekd.data.torch_data import Share, TensorBatch, TrainingBatches, Views, mirror, shift, tensor_batches
from edgekd.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

IMAGES = np.random.default_rng(0).normal(size=(53, 2, 6, 5)).astype(np.float32)
LABELS = np.arange(53) % 7
SAMPLES = ArraySamples({"x": IMAGES, "labels": LABELS}, name="some")
AUGMENTED = {"batch_size": 8, "seed": 3, "crop_padding": 2, "flip": True}


def same(found: Iterable[TensorBatch], expected: Iterable[TensorBatch]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_epoch_is_a_permutation_and_inputs_belong_to_their_labels() -> None:
    loader = TrainingBatches(SAMPLES, batch_size=8, seed=0)
    orders = []
    for number in range(3):
        batches = list(loader.epoch(number))
        assert [len(batch.labels) for batch in batches] == [8, 8, 8, 8, 8, 8, 5]
        assert len(batches) == loader.steps
        order = torch.cat([batch.positions for batch in batches]).numpy()
        assert sorted(order.tolist()) == list(range(53))
        np.testing.assert_array_equal(torch.cat([batch.inputs for batch in batches]).numpy(), IMAGES[order])
        np.testing.assert_array_equal(torch.cat([batch.labels for batch in batches]).numpy(), LABELS[order])
        orders.append(order)
    assert not any(np.array_equal(orders[0], other) for other in orders[1:])
    assert [value.dtype for value in batches[0]] == [torch.float32, torch.int64, torch.int64]


@pytest.mark.parametrize(("batch_size", "sizes"), [(52, [52]), (51, [51, 2]), (53, [53]), (100, [53])])
def test_a_last_batch_of_one_sample_is_dropped(batch_size: int, sizes: list[int]) -> None:
    loader = TrainingBatches(SAMPLES, batch_size=batch_size, seed=0)
    assert [len(batch.labels) for batch in loader.epoch(0)] == sizes
    assert loader.steps == len(sizes)


@pytest.mark.parametrize(("accumulate", "size"), [(1, 1), (3, 1), (1, 3), (4, 2)])
def test_processes_share_out_the_batches_and_steps_take_several(accumulate: int, size: int) -> None:
    """Together all processes see just the batches of one, in shares that weigh what they hold."""
    whole = list(TrainingBatches(SAMPLES, **AUGMENTED).epoch(2))
    if size == 3:
        whole.pop()  # 5 samples, fewer than 2 for each
    loaders = [
        TrainingBatches(SAMPLES, accumulate=accumulate, share=Share(rank, size), **AUGMENTED) for rank in range(size)
    ]
    found = [list(loader.epoch(2)) for loader in loaders]
    for number, expected in enumerate(whole):
        parts = [shares[number] for shares in found]
        same([TensorBatch(*(torch.cat(values) for values in zip(*parts, strict=True)))], [expected])
        assert max(len(part.labels) for part in parts) - min(len(part.labels) for part in parts) <= 1
    for step in range(loaders[0].steps):
        batches = slice(step * accumulate, (step + 1) * accumulate)
        samples = sum(len(batch.labels) for batch in whole[batches])
        for shares, loader in zip(found, loaders, strict=True):
            held = [len(batch.labels) * size / samples for batch in shares[batches]]
            assert loader.weights(step) == pytest.approx(held)
        same(loaders[0].epoch(2, step), found[0][step * accumulate :])
    assert loaders[0].steps == -(-len(whole) // accumulate)


def test_batches_too_small_to_be_shared_out_are_refused() -> None:
    with pytest.raises(UsageError, match=r"batch_size = 8 is shared out among 5 processes; it must be 10 or more"):
        TrainingBatches(SAMPLES, share=Share(0, 5), **AUGMENTED)
    few = ArraySamples({"x": IMAGES[:3], "labels": LABELS[:3]}, name="few")
    with pytest.raises(DataError, match="few: 3 samples; training needs at least 4"):
        TrainingBatches(few, batch_size=8, seed=0, share=Share(0, 2))


@pytest.mark.parametrize("start", [0, 1, 5, 7])
def test_resuming_gives_the_rest_of_the_epoch(start: int) -> None:
    loader = TrainingBatches(SAMPLES, **AUGMENTED)
    same(TrainingBatches(SAMPLES, **AUGMENTED).epoch(4, start), list(loader.epoch(4))[start:])


def by_position(batches: Iterable[TensorBatch]) -> torch.Tensor:
    found = list(batches)
    return torch.cat([batch.inputs for batch in found])[torch.argsort(torch.cat([b.positions for b in found]))]


def test_views_are_replayed_and_the_order_is_not() -> None:
    loader = TrainingBatches(SAMPLES, views=Views(2, seed=8), **AUGMENTED)
    free = TrainingBatches(SAMPLES, **{**AUGMENTED, "seed": 8})
    plain = TrainingBatches(SAMPLES, **AUGMENTED)
    for epoch in range(5):
        assert torch.equal(next(loader.epoch(epoch)).positions, next(plain.epoch(epoch)).positions)
        assert torch.equal(by_position(loader.epoch(epoch)), by_position(free.epoch(epoch % 2)))
    assert not torch.equal(next(loader.epoch(0)).positions, next(loader.epoch(2)).positions)


@pytest.mark.parametrize("batch_size", [1, 7, 53])
def test_a_view_is_an_epochs_augmentation_in_order(batch_size: int) -> None:
    loader = TrainingBatches(SAMPLES, **AUGMENTED)
    found = list(loader.view(3, 0, 53, batch_size))
    assert torch.cat([batch.positions for batch in found]).tolist() == list(range(53))
    assert torch.equal(by_position(found), by_position(loader.epoch(3)))
    (part,) = loader.view(3, 10, 14, 50)
    assert torch.equal(part.inputs, by_position(loader.epoch(3))[10:14])
    assert part.labels.tolist() == LABELS[10:14].tolist()


def test_augmentation_depends_on_seed_epoch_and_position_not_on_the_batch() -> None:
    def by_position(epoch: int, **changed: int) -> np.ndarray:
        batches = list(TrainingBatches(SAMPLES, **{**AUGMENTED, **changed}).epoch(epoch))
        order = torch.cat([batch.positions for batch in batches])
        return torch.cat([batch.inputs for batch in batches])[torch.argsort(order)].numpy()

    found = by_position(2)
    np.testing.assert_array_equal(found, by_position(2, batch_size=17))
    assert not np.array_equal(found, by_position(3))
    assert not np.array_equal(found, by_position(2, seed=4))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there is a single core
def test_workers_change_nothing_and_leave_the_global_random_state(make_npz: Callable[..., Path]) -> None:
    """Arrays in files go to the workers as open files."""
    expected = list(TrainingBatches(SAMPLES, **AUGMENTED).epoch(1, 2))
    stored = open_npz(make_npz(x=IMAGES), ["x"])["x"]
    unpacked = open_npz(make_npz("c.npz", compressed=True, x=IMAGES), ["x"])["x"]
    state = torch.get_rng_state()
    for array in (stored, unpacked):
        loader = TrainingBatches(ArraySamples({"x": array, "labels": LABELS}), workers=2, **AUGMENTED)
        same(loader.epoch(1, 2), expected)
        same([next(iter(loader.epoch(1, 2)))], expected[:1])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_one_clear_message(workers: int) -> None:
    broken = IMAGES.copy()
    broken[11, 0, 0, 0] = np.nan
    loader = TrainingBatches(
        ArraySamples({"x": broken, "labels": LABELS}, name="some.npz"), batch_size=53, seed=0, workers=workers
    )
    with pytest.raises(DataError) as caught:
        list(loader.epoch(0))
    assert str(caught.value) == (
        "some.npz: 'x' holds NaN in sample 11; expected finite numbers: repair or remove that sample"
    )


def test_what_cannot_be_trained_on() -> None:
    with pytest.raises(DataError, match="some: training needs labels, the data has none"):
        TrainingBatches(ArraySamples({"x": IMAGES}, name="some"), batch_size=2, seed=0)
    with pytest.raises(UsageError, match="some: training takes one array of inputs, found 2: x, y"):
        TrainingBatches(ArraySamples({"x": IMAGES, "y": IMAGES, "labels": LABELS}, name="some"), batch_size=2, seed=0)
    with pytest.raises(DataError, match="some: 1 sample; training needs at least 2"):
        TrainingBatches(ArraySamples({"x": IMAGES[:1], "labels": LABELS[:1]}, name="some"), batch_size=2, seed=0)
    flat = ArraySamples({"x": IMAGES.reshape(53, -1), "labels": LABELS}, name="some")
    with pytest.raises(UsageError, match=r"shifting and mirroring are for images .* found \('N', 60\)"):
        TrainingBatches(flat, batch_size=2, seed=0, flip=True)
    with pytest.raises(DataError, match="some: labels are needed here, the data has none"):
        list(tensor_batches(ArraySamples({"x": IMAGES}, name="some"), 2))


@pytest.mark.parametrize("padding", [1, 2, 4])
def test_shifting_equals_the_naive_way(padding: int) -> None:
    images = np.concatenate([IMAGES] * 4)
    words = random_words(len(images), seed=1, stream=Stream.AUGMENTATION)
    found = shift(images, words, padding)
    span = 2 * padding + 1
    seen = set()
    for image, word, result in zip(images, words.tolist(), found, strict=True):
        down = (word % 2**32) * span // 2**32
        right = (word // 2**32 % 2**31) * span // 2**31
        canvas = np.zeros((2, 6 + 2 * padding, 5 + 2 * padding), dtype=np.float32)
        canvas[:, padding : padding + 6, padding : padding + 5] = image
        np.testing.assert_array_equal(result, canvas[:, down : down + 6, right : right + 5])
        seen |= {("down", down), ("right", right)}
    assert len(seen) == 2 * span, "every shift occurs"


def test_mirroring_equals_the_naive_way() -> None:
    words = random_words(53, seed=1, stream=Stream.AUGMENTATION)
    found = mirror(IMAGES, words)
    for image, word, result in zip(IMAGES, words.tolist(), found, strict=True):
        np.testing.assert_array_equal(result, image[..., ::-1] if word >= 2**63 else image)
    assert 15 < (words >> 63).sum() < 38


def test_a_word_depends_on_its_address_alone() -> None:
    words = random_words(100, seed=9, stream=Stream.ORDER, epoch=7)
    np.testing.assert_array_equal(words[:10], random_words(10, seed=9, stream=Stream.ORDER, epoch=7))
    others = [
        random_words(100, seed=8, stream=Stream.ORDER, epoch=7),
        random_words(100, seed=9, stream=Stream.SPLIT, epoch=7),
        random_words(100, seed=9, stream=Stream.ORDER, epoch=8),
    ]
    assert len(np.unique(np.concatenate([words, *others]))) == 400


def test_in_order_for_validation() -> None:
    batches = list(tensor_batches(SAMPLES, 20))
    assert [len(batch.labels) for batch in batches] == [20, 20, 13]
    np.testing.assert_array_equal(torch.cat([batch.inputs for batch in batches]).numpy(), IMAGES)
    np.testing.assert_array_equal(torch.cat([batch.labels for batch in batches]).numpy(), LABELS)
    np.testing.assert_array_equal(torch.cat([batch.positions for batch in batches]).numpy(), np.arange(53))
