from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, get_args

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd.data import ArraySamples
from edgekd.errors import DataError, ModelError, OutputError, UsageError
from edgekd.graph.folding import fold
from edgekd.progress import SILENT
from edgekd.quantization.calibration import RangeMethod, activations, calibrate, least_harmful, minmax_ranges
from tests.quantization.calibrations import over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgekd.progress import Task

METHODS = get_args(RangeMethod)
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def model(make_conv_net: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    return fold(make_conv_net().SerializeToString(), "net")


def test_every_float_activation_is_watched(model: onnx.ModelProto) -> None:
    names = activations(model)
    assert names[0] == "input"
    assert {"c1", "r1", "c2", "a", "r2", "logits"} <= set(names)
    assert not {"w1", "b1"} & set(names)


def test_ranges_are_those_of_all_samples(model: onnx.ModelProto, images: np.ndarray) -> None:
    from edgekd.runtime import open_model

    ranges = minmax_ranges(model, over(ArraySamples({"input": images})))
    logits = open_model(model.SerializeToString()).run({"input": images}, ["logits"])[0]
    assert ranges["input"] == (images.min(), images.max())
    assert ranges["logits"] == pytest.approx((logits.min(), logits.max()), rel=1e-5)
    assert ranges["r1"][0] == 0


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64, 100])
def test_ranges_do_not_depend_on_the_batch_size(model: onnx.ModelProto, images: np.ndarray, batch_size: int) -> None:
    samples = ArraySamples({"input": images})
    expected = minmax_ranges(model, over(samples))
    found = minmax_ranges(model, over(samples, batch_size=batch_size))
    assert found.keys() == expected.keys()
    assert found["input"] == expected["input"]
    for name, values in found.items():
        assert values == pytest.approx(expected[name], rel=1e-5, abs=1e-6)


def test_a_limit_is_kept(model: onnx.ModelProto, images: np.ndarray) -> None:
    images[10:] *= 100
    limited = minmax_ranges(model, over(ArraySamples({"input": images}), limit=10))
    assert limited["input"] == (images[:10].min(), images[:10].max())


def test_a_fixed_batch_is_served_whole(make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray) -> None:
    fixed = fold(make_conv_net(batch=5).SerializeToString(), "net")
    ranges = minmax_ranges(fixed, over(ArraySamples({"input": images})))
    assert ranges["input"] == (images.min(), images.max())


def test_an_activation_that_overflows_is_named(model: onnx.ModelProto, images: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"the activation '\w+' is NaN or infinite"):
        minmax_ranges(model, over(ArraySamples({"input": images * np.float32(4e37)})))


def test_samples_that_do_not_fit_are_refused(model: onnx.ModelProto, images: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"takes 'input' of shape .*8, 8"):
        minmax_ranges(model, over(ArraySamples({"input": images[:, :, :4]})))
    with pytest.raises(DataError, match="takes an input 'input'"):
        minmax_ranges(model, over(ArraySamples({"inptu": images})))


def parsed(text: str, **weights: object) -> onnx.ModelProto:
    graph = onnx.parser.parse_graph(text)
    graph.initializer.extend(numpy_helper.from_array(np.float32(value), name) for name, value in weights.items())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


@every_method
@pytest.mark.parametrize("place", [0, 1, 5, 11])
def test_a_single_nan_is_named_wherever_it_is(method: RangeMethod, place: int) -> None:
    """ReduceMin and ReduceMax of onnxruntime alone pass over it."""
    model = parsed("g (float[N,12] input) => (float[N,12] y) { root = Sqrt(input)  y = Relu(root) }")
    values = np.ones((4, 12), np.float32)
    values[2, place] = -1
    with pytest.raises(ModelError, match="the activation 'root' is NaN or infinite"):
        calibrate(model, over(ArraySamples({"input": values})), method=method)


@every_method
def test_no_method_depends_on_the_batch_size_or_widens_a_range(
    model: onnx.ModelProto, images: np.ndarray, method: RangeMethod
) -> None:
    samples = ArraySamples({"input": images})
    seen = minmax_ranges(model, over(samples))
    expected = calibrate(model, over(samples), method=method)
    for batch_size in (1, 7):
        found = calibrate(model, over(samples, batch_size=batch_size), method=method)
        assert list(found) == list(seen) == list(expected)
        assert found["input"] == expected["input"]
        for tensor, bounds in found.items():
            assert bounds == pytest.approx(expected[tensor], rel=1e-5, abs=1e-6)
    for tensor, (low, high) in expected.items():
        assert min(seen[tensor][0], 0) <= low <= high <= max(seen[tensor][1], 0)
    assert expected["r1"][0] == expected["r2"][0] == 0


@every_method
def test_every_method_keeps_a_limit(model: onnx.ModelProto, images: np.ndarray, method: RangeMethod) -> None:
    limited = calibrate(model, over(ArraySamples({"input": images}), limit=10), method=method)
    first = calibrate(model, over(ArraySamples({"input": images[:10]})), method=method)
    assert limited == first


@every_method
def test_every_method_takes_a_fixed_batch(
    make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray, method: RangeMethod
) -> None:
    fixed, free = (fold(make_conv_net(batch=batch).SerializeToString(), "net") for batch in (4, "batch"))
    samples = ArraySamples({"input": images})
    found = calibrate(fixed, over(samples), method=method)
    for tensor, bounds in calibrate(free, over(samples), method=method).items():
        assert found[tensor] == pytest.approx(bounds, rel=1e-5, abs=1e-6)


@every_method
def test_constants_nothing_and_extremes(method: RangeMethod) -> None:
    text = """g (float[N,C] a, float[N,C] b) => (float[N,C] y) {
        none = Sub(a, a)  negative = Sub(none, seven)  sum = Add(a, b)  large = Mul(sum, huge)  small = Mul(sum, tiny)
        one = Add(none, seven)  z = Sum(none, negative, large, small, one)  y = Clip(z, none_, six)
    }"""
    model = parsed(text, seven=7, huge=1e37, tiny=1e-37, none_=0, six=6)
    rng = np.random.default_rng(0)
    samples = ArraySamples({name: rng.normal(size=(50, 4)).astype(np.float32) for name in ("b", "a")})
    ranges = calibrate(model, over(samples, batch_size=8), method=method)
    seen = minmax_ranges(model, over(samples))
    assert ranges["none"] == (0, 0)
    assert min(ranges["negative"][0], -6.9) == ranges["negative"][0] >= -7
    assert ranges["negative"][1] <= 0
    assert 6.9 <= ranges["one"][1] <= 7
    assert ranges["y"] == pytest.approx((0, 6), rel=0.01)
    for tensor in ("large", "small"):
        assert seen[tensor][0] <= ranges[tensor][0] < 0 < ranges[tensor][1] <= seen[tensor][1]


def rare_outliers(weight: float) -> tuple[onnx.ModelProto, ArraySamples]:
    """Return a matrix product whose first input has a value of 60 in every hundredth row, and 0 in the others."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2000, 200)).astype(np.float32)
    values[:, 0] = np.where(np.arange(2000) % 100, 0, 60)
    weights = rng.normal(size=(200, 8))
    weights[0] = weight
    return parsed("g (float[N,200] x) => (float[N,8] y) { y = MatMul(x, w) }", w=weights), ArraySamples({"x": values})


@pytest.mark.parametrize(("weight", "kept"), [(0, False), (20, True)])
def test_an_outlier_is_worth_what_its_readers_make_of_it(weight: float, kept: bool) -> None:
    model, samples = rare_outliers(weight)
    high = calibrate(model, over(samples), method="auto")["x"][1]
    assert (high > 55) == kept


def test_the_measured_error_is_that_of_the_readers_outputs() -> None:
    model, samples = rare_outliers(20)
    values, weights = samples.batch(range(2000))["x"], numpy_helper.to_array(model.graph.initializer[0])
    candidates = [(-4.0, high) for high in (60.0, 30.0, 12.0, 5.0)]

    def error(low: float, high: float) -> float:
        scale = (high - low) / 255
        zero = round(-low / scale)
        quantized = (np.clip(np.rint(values / scale), -zero, 255 - zero) * scale).astype(np.float32)
        return float(np.sum((quantized @ weights - values @ weights) ** 2, dtype=np.float64))

    for tried in (candidates, candidates[::-1], candidates[1:], candidates[2:]):
        chosen = least_harmful(model, {"x": tried}, over(samples, batch_size=100))["x"]
        assert chosen == min(tried, key=lambda bounds: error(*bounds))


def test_what_cannot_be_told_apart_keeps_its_first_range() -> None:
    text = """g (float[N,3] x) => (float[N,3] y, bool[N,3] sign) {
        large = Mul(x, huge)  y = Mul(large, huge2)  sign = Greater(x, zero)
    }"""
    model = parsed(text, huge=1e30, huge2=1e5, zero=0)
    samples = ArraySamples({"x": np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)})
    tried = {"large": [(-1e31, 1e31), (-1.0, 1.0)], "y": [(0.0, 1.0), (0.0, 2.0)]}
    chosen = least_harmful(model, tried, over(samples))
    assert chosen == {"large": (-1e31, 1e31), "y": (0.0, 1.0)}


def test_many_small_groups_are_judged_as_one(model: onnx.ModelProto, images: np.ndarray) -> None:
    samples = ArraySamples({"input": images})
    candidates = {
        t: [(low, high), (low / 2, high / 2)] for t, (low, high) in minmax_ranges(model, over(samples)).items()
    }
    expected = least_harmful(model, candidates, over(samples))
    assert least_harmful(model, candidates, over(samples), most_bytes=1) == expected


def test_an_unknown_method_is_refused(model: onnx.ModelProto, images: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"unknown range method 'percentil'.*meant 'percentile'"):
        calibrate(model, over(ArraySamples({"input": images})), method="percentil")  # type: ignore[arg-type]


class Listener:
    """Counts the passes over the samples."""

    def __init__(self) -> None:
        self.passes = 0

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Task]:
        self.passes += 1
        with SILENT.task(title, total, done) as task:
            yield task

    def note(self, message: str) -> None:
        raise AssertionError(message)


def test_ranges_are_kept_for_the_same_question_and_for_no_other(
    model: onnx.ModelProto, make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray, tmp_path: Path
) -> None:
    samples = ArraySamples({"input": images})
    other = fold(make_conv_net(seed=1).SerializeToString(), "net")

    def passes(
        model: onnx.ModelProto, samples: ArraySamples, method: RangeMethod = "percentile", **options: int
    ) -> int:
        listener = Listener()
        cache = tmp_path / "not" / "yet"
        found = calibrate(model, over(samples, progress=listener, **options), method=method, cache=cache)
        assert found == calibrate(model, over(samples, **options), method=method)
        return listener.passes

    assert passes(model, samples) == 2
    assert passes(model, samples) == 0
    assert passes(model, ArraySamples({"input": images.copy()}), limit=64) == 0
    assert passes(other, samples) == 2
    assert passes(model, ArraySamples({"input": images[::-1]})) == 2
    assert passes(model, samples, limit=10) == 2
    assert passes(model, samples, batch_size=8) == 2
    assert passes(model, samples, method="minmax") == 1
    assert passes(model, samples, method="auto") == 3
    assert passes(model, samples) == 0


def test_another_library_version_measures_again(
    model: onnx.ModelProto, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = ArraySamples({"input": images})
    calibrate(model, over(samples), cache=tmp_path)
    monkeypatch.setattr("edgekd.artifact.version", lambda name: "0.0")
    listener = Listener()
    calibrate(model, over(samples, progress=listener), cache=tmp_path)
    assert listener.passes == 1


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff", None])
@pytest.mark.parametrize("suffix", [".ranges.json", ".card.json"])
def test_damaged_ranges_are_measured_again(
    model: onnx.ModelProto, images: np.ndarray, tmp_path: Path, damage: bytes | None, suffix: str
) -> None:
    samples = ArraySamples({"input": images})
    expected = calibrate(model, over(samples), cache=tmp_path)
    (path,) = (path for path in tmp_path.iterdir() if path.name.endswith(suffix))
    path.write_bytes(path.read_bytes()[:-20] if damage is None else damage)
    for passes in (1, 0):
        listener = Listener()
        assert calibrate(model, over(samples, progress=listener), cache=tmp_path) == expected
        assert listener.passes == passes


def test_a_cache_that_cannot_be_written_says_so(model: onnx.ModelProto, images: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write here"):
        calibrate(model, over(ArraySamples({"input": images})), cache=tmp_path / "file")


def test_an_empty_activation_is_called_empty() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[N, 3] x) => (float[N, 2] y) '
        "<float[3, 2] w = {1, 2, 3, 4, 5, 6}, int64[1] zero = {0}, int64[1] axis = {1}> "
        "{ e = Slice(x, zero, zero, axis) r = Relu(e) c = Concat<axis = 1>(x, r) y = MatMul(c, w) }"
    )
    model = onnx.shape_inference.infer_shapes(model)
    samples = ArraySamples({"x": np.ones((4, 3), np.float32)})
    with pytest.raises(ModelError, match=r"the activation 'e' is empty \(it has no elements\)"):
        minmax_ranges(model, over(samples))
