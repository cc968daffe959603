from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekd.data import ArraySamples
from edgekd.graph.folding import fold
from edgekd.quantization.calibration import minmax_ranges
from edgekd.quantization.histograms import BINS, Histogram, collect_histograms
from edgekd.quantization.watching import share_out, with_outputs
from edgekd.runtime import open_model
from tests.quantization.calibrations import over

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.fixture
def model(make_conv_net: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    return fold(make_conv_net().SerializeToString(), "net")


def filled(values: np.ndarray, pieces: Sequence[np.ndarray] | None = None) -> Histogram:
    histogram = Histogram.over(float(values.min()), float(values.max()))
    for piece in [values] if pieces is None else pieces:
        histogram.add(piece)
    return histogram


def same(one: Histogram, other: Histogram) -> bool:
    ends = (one.low, one.high, one.zeros) == (other.low, other.high, other.zeros)
    return ends and bool((one.counts == other.counts).all())


def test_however_six_batches_are_joined_or_ordered_the_counts_are_the_same() -> None:
    batches = np.random.default_rng(0).normal(0, 3, (6, 50)).astype(np.float32)
    expected = filled(batches)
    for cuts in itertools.chain.from_iterable(itertools.combinations(range(1, 6), n) for n in range(6)):
        assert same(filled(batches, np.split(batches, cuts)), expected)
    for order in itertools.permutations(range(6)):
        assert same(filled(batches, [batches[i] for i in order]), expected)


@given(values=arrays(np.float32, st.integers(1, 60), elements=FLOATS), data=st.data())
def test_however_any_values_are_split_the_counts_are_the_same(values: np.ndarray, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)))))
    assert same(filled(values, np.split(values, cuts)), filled(values))


@given(values=arrays(np.float32, st.integers(1, 60), elements=FLOATS))
def test_bins_are_those_of_a_loop_over_the_values(values: np.ndarray) -> None:
    histogram = filled(values)
    width = histogram.high - histogram.low
    expected = [0] * BINS
    for value in values.tolist():
        place = (value - histogram.low) * (BINS / width) if width else 0
        expected[min(math.floor(place), BINS - 1)] += 1
    assert histogram.counts.tolist() == expected
    assert histogram.total == len(values)
    assert histogram.zeros == sum(value == 0 for value in values.tolist())
    assert histogram.nonzero.sum() == len(values) - histogram.zeros
    assert histogram.nonzero.min() >= 0


def test_more_values_than_are_binned_at_once() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 300_000).astype(np.float32)
    np.testing.assert_array_equal(filled(values).counts, np.histogram(values, filled(values).edges)[0])


def test_values_beyond_the_edges_are_counted_at_the_edges() -> None:
    histogram = Histogram.over(-1, 2)
    histogram.add(np.array([-1.5, -1, 2, 2.5, 3e38], np.float32))
    assert (histogram.counts[0], histogram.counts[-1]) == (2, 3)


def test_nothing_but_zero() -> None:
    values = np.array([0.0, -0.0, 0.0], np.float32)
    histogram = filled(values)
    assert (histogram.low, histogram.high, histogram.zeros, histogram.total) == (0, 0, 3, 3)


def test_a_model_fills_the_same_histograms_in_any_batches(model: onnx.ModelProto, images: np.ndarray) -> None:
    samples = ArraySamples({"input": images})
    ranges = minmax_ranges(model, over(samples))
    expected = collect_histograms(model, ranges, over(samples))
    outputs = open_model(with_outputs(model, list(ranges)).SerializeToString())
    named = dict(zip([o.name for o in outputs.outputs], outputs.run({"input": images}), strict=True))
    for batch_size in (1, 3, 7, 64, 100):
        found = collect_histograms(model, ranges, over(samples, batch_size=batch_size))
        assert found.keys() == ranges.keys()
        assert same(found["input"], expected["input"])
        for tensor, histogram in found.items():
            assert histogram.total == named.get(tensor, images).size
            moved = np.abs(histogram.counts - expected[tensor].counts).sum() / 2
            assert moved <= max(1, 1e-5 * histogram.total)


@pytest.mark.parametrize("most_bytes", [1, 5_000, 1 << 20])
def test_a_bound_on_memory_changes_no_count(model: onnx.ModelProto, images: np.ndarray, most_bytes: int) -> None:
    samples = ArraySamples({"input": images[:10]})
    ranges = minmax_ranges(model, over(samples, batch_size=1))
    expected = collect_histograms(model, ranges, over(samples, batch_size=1))
    found = collect_histograms(model, ranges, over(samples, batch_size=1), most_bytes=most_bytes)
    assert all(same(found[tensor], histogram) for tensor, histogram in expected.items())


def test_tensors_share_the_memory_that_is_allowed(
    make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray
) -> None:
    samples = ArraySamples({"input": images})
    tensors = ["input", "c1", "r1", "c2", "logits"]
    sizes = {"input": 768, "c1": 2048, "r1": 2048, "c2": 2048, "logits": 16}  # bytes for one sample
    free, fixed = (fold(make_conv_net(batch=b).SerializeToString(), "net") for b in ("batch", 4))
    assert share_out(free, tensors, over(samples), 10**9) == (16, [tensors])
    assert share_out(free, tensors, over(samples), 5 * sum(sizes.values())) == (5, [tensors])
    assert share_out(free, tensors, over(samples), 4096) == (1, [["input", "c1"], ["r1", "c2"], ["logits"]])
    assert share_out(free, tensors, over(samples), 1) == (1, [[tensor] for tensor in tensors])
    assert share_out(fixed, tensors, over(samples), 4 * 4096) == (
        4,
        [["input", "c1"], ["r1", "c2"], ["logits"]],
    )


def test_the_padding_of_a_fixed_batch_is_not_counted(
    make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray
) -> None:
    samples = ArraySamples({"input": images})
    fixed = fold(make_conv_net(batch=5).SerializeToString(), "net")
    ranges = minmax_ranges(fixed, over(samples))
    found = collect_histograms(fixed, ranges, over(samples))
    assert same(found["input"], filled(images))
    assert found["logits"].total == 64 * 4


def test_several_inputs_of_free_size(images: np.ndarray) -> None:
    graph = onnx.parser.parse_graph(
        "g (float[N,C,H,W] a, float[N,C,H,W] b, int64[1] axis) => (float[N,1,H,W] y) {"
        " d = Sub(a, b)  y = ReduceMax(d, axis) }"
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    del model.graph.input[2]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    samples = ArraySamples({"b": images[::-1, :, :5], "a": images[:, :, :5]})
    inferred = onnx.shape_inference.infer_shapes(model)
    ranges = minmax_ranges(inferred, over(samples))
    found = collect_histograms(inferred, ranges, over(samples, batch_size=9))
    difference = images[:, :, :5] - images[::-1, :, :5]
    for tensor, values in {"a": images[:, :, :5], "d": difference, "y": difference.max(axis=1)}.items():
        assert same(found[tensor], filled(np.ascontiguousarray(values)))
