"""Whether a file is faster than the fp32 model it was made from: how that is measured, and when it is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from listening import Heard

from edgekd import quantize
from edgekd.quantization.speed import BLOCK_RUNS, BLOCK_S, Speed, alternate
from edgekd.targets import TARGETS, detect_host

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import onnx


class Clock:
    """A clock that only the runs move on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log = ""

    def __call__(self) -> float:
        return self.now

    def run(self, name: str, seconds: float) -> Callable[[], None]:
        def once() -> None:
            self.log += name
            self.now += seconds

        return once


def test_blocks_alternate_and_each_comes_first_as_often() -> None:
    clock = Clock()
    speed = alternate(clock.run("a", 0.02), clock.run("b", 0.02), blocks=4, clock=clock)
    a, b = "a" * BLOCK_RUNS, "b" * BLOCK_RUNS
    assert clock.log == a + b + b + a + a + b + b + a
    assert speed.file_ms == pytest.approx([20] * 4)


def test_short_runs_fill_a_block() -> None:
    clock = Clock()
    alternate(clock.run("a", BLOCK_S / 20), clock.run("b", BLOCK_S), blocks=2, clock=clock)
    assert 40 <= clock.log.count("a") <= 42
    assert clock.log.count("b") == 2 * BLOCK_RUNS


@pytest.mark.parametrize(
    ("factor", "verdict"), [([1.5] * 8, "slower"), ([0.5] * 8, "faster"), ([0.5, 2.0] * 4, "none")]
)
def test_the_verdict_is_that_of_the_paired_ratios(factor: list[float], verdict: str) -> None:
    fp32_ms = (1.0, 1.01, 0.99, 1.0, 1.02, 1.0, 0.98, 1.0)
    speed = Speed(file_ms=tuple(f * t for f, t in zip(factor, fp32_ms, strict=True)), fp32_ms=fp32_ms)
    content = speed.to_json()
    assert content["ratio"]["verdict"] == verdict == speed.ratio.verdict
    assert content["ratio"]["pairs"] == 8
    assert content["ratio"]["median"] == pytest.approx(sorted(factor)[3] / 2 + sorted(factor)[4] / 2)
    assert content["fp32_ms"] == 1.0


def test_only_a_file_for_this_machine_is_timed(
    make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray
) -> None:
    model, data = make_conv_net(batch=4).SerializeToString(), {"input": images}
    own = quantize(model, data, None, measure=True).to_json()
    assert own["speed"]["file_ms"] > 0
    assert own["speed"]["fp32_ms"] > 0
    assert json.loads(json.dumps(own, allow_nan=False)) == own
    other = next(name for name in TARGETS if name != detect_host().name)
    notes = Heard()
    result = quantize(model, data, None, target=other, measure=True, progress=notes)
    assert result.speed is None
    assert result.audit.time_us is not None
    assert notes.notes == [f"the model: not timed beside fp32, because this machine is not {other}"]
    assert quantize(model, data, None).to_json()["speed"] is None
