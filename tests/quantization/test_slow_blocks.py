"""Blocks that 8 bits make slower: found by measurement, returned to fp32 together, and never all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgekd import quantize
from edgekd.benchmarking.statistics import PairedRatio, paired_ratio
from edgekd.quantization import job, static
from edgekd.quantization.slow_blocks import BLOCKS, Quickened, return_slow_blocks
from edgekd.quantization.speed import Speed

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import onnx


def ratio(times: float) -> PairedRatio:
    """Return what eight quiet pairs would say."""
    return paired_ratio([times] * 8, [1.0] * 8)


def find(layers: str, seconds: Callable[[str], float]) -> tuple[Quickened, list[str]]:
    """Search among layers of one letter; a file is the letters of its layers in fp32, and takes so many seconds."""
    made: list[str] = []

    def make(names: frozenset[str]) -> bytes:
        made.append("".join(sorted(names)))
        return made[-1].encode()

    def compare(file: bytes, other: bytes) -> PairedRatio:
        return ratio(seconds(file.decode()) / seconds(other.decode()))

    return return_slow_blocks(b"", ratio(1.5), list(layers), make, compare), made


def test_slow_blocks_go_back_together() -> None:
    found, made = find("abcdef", lambda fp32: 10 - ("b" in fp32) - 2 * ("e" in fp32) + ("c" in fp32))
    assert made == ["a", "b", "c", "d", "e", "f", "be"]
    assert found.fp32 == ("b", "e")
    assert found.content == b"be"
    assert found.gain is not None
    assert found.gain.median == pytest.approx(0.7)
    assert found.reason == (
        "with every block in 8 bits the file took 1.50 times the fp32 model's time; with its slow blocks (b, e) in "
        "fp32 it takes 0.70 times what it took"
    )


def test_many_layers_are_cut_into_neighbourhoods_of_like_size() -> None:
    layers = "abcdefghijklmnopqrs"
    found, made = find(layers, lambda fp32: 10 - ("a" in fp32))
    assert "".join(made[:BLOCKS]) == layers
    assert {len(block) for block in made[:BLOCKS]} == {2, 3}
    assert found.fp32 == tuple(made[0])
    assert [block.ratio.verdict for block in found.blocks] == ["faster"] + ["none"] * 7


def test_what_gains_alone_but_not_together_stays_in_8_bits() -> None:
    found, _ = find("abc", lambda fp32: {"": 10, "a": 9, "b": 9, "c": 10, "ab": 11}[fp32])
    assert (found.content, found.fp32, found.gain) == (b"", (), None)
    assert found.reason.endswith("leaving blocks of it in fp32 does not make it faster")
    assert found.to_json()["gain"] is None


def test_a_file_that_is_slower_everywhere_stays_small() -> None:
    found, made = find("ab", lambda fp32: 10 - 2 * len(fp32))
    assert made == ["a", "b"]
    assert (found.content, found.fp32) == (b"", ())
    assert found.reason.endswith("8 bits save size here, and no time")


def test_a_slower_file_is_searched_and_its_card_says_so(
    make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stopwatch that finds files slower the less of them is in fp32: not measured, so that it is certain."""
    model = make_conv_net().SerializeToString()

    def compare(content: bytes, original: bytes, *_: object, **__: object) -> Speed:
        seconds = [1.0 if file == model else 3.0 - len(file) / 1e6 for file in (content, original)]
        return Speed(file_ms=(seconds[0],) * 8, fp32_ms=(seconds[1],) * 8)

    monkeypatch.setattr(job, "compare_speed", compare)
    monkeypatch.setattr(static, "compare_speed", compare)
    found = quantize(model, {"input": images}, None, evaluation={"input": images}, measure=True)
    content = found.to_json()
    assert content["slow_blocks"]["ratio_before"] == pytest.approx(3, abs=0.1)
    assert [block["layers"] for block in content["slow_blocks"]["blocks"]] == [["conv1"], ["conv2"], ["fc"]]
    assert content["fp32_reason"].startswith("with every block in 8 bits the file took ")
    assert found.evaluation is not None


def test_nothing_is_searched_unless_asked(make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray) -> None:
    assert quantize(make_conv_net().SerializeToString(), {"input": images}, None).to_json()["slow_blocks"] is None
