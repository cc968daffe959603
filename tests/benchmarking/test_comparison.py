"""Two benchmark results side by side: what is a change, what is noise, what may be compared at all."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from edgekd.benchmarking.comparison import compare, independent_ratio
from edgekd.benchmarking.conditions import EMULATED, Conditions
from edgekd.benchmarking.results import BenchResult, Device, Latency, ModelResult
from edgekd.cli.compare import command
from edgekd.errors import DataError, GateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

QUIET = [1.00, 1.01, 1.00, 0.99, 1.00, 1.01]


def model(blocks_ms: Sequence[float], *, name: str = "a.onnx", peak: int | None = 10**7) -> ModelResult:
    return ModelResult(
        path=name,
        sha256="0" * 64,
        threads=1,
        inputs={},
        repetitions=len(blocks_ms),
        load_ms=1.0,
        first_run_ms=1.0,
        latency_ms=Latency.of([[value] * 10 for value in blocks_ms]) if blocks_ms else None,
        block_p50_ms=tuple(blocks_ms) or None,
        warmed_up=True,
        memory_bytes={"peak": peak},
        ratio_to_first=None,
    )


def write(
    path: Path, *models: ModelResult, device: str = "local", cpu: str = "a CPU", verdict: str = "valid"
) -> Path:
    conditions = Conditions(
        verdict=verdict,
        cpu_model=cpu,
        logical_cores=2,
        governor="unavailable",
        load_average_before=0.0,
        others_busy_cores=0.0,
        onnxruntime="1.32.0",
    )
    result = BenchResult(device=Device(name=device, target="x86-avx2"), conditions=conditions, models=models)
    path.write_text(json.dumps(result.to_json()))
    return path


@pytest.mark.parametrize(
    ("blocks", "verdict", "regressions"),
    [
        ([1.1 * value for value in QUIET], "slower", ("latency",)),
        ([1.04 * value for value in QUIET], "slower", ()),  # beyond the noise, within what is allowed
        ([0.9 * value for value in QUIET], "faster", ()),
        (QUIET, "none", ()),
        ([1.2, 0.9, 1.3, 1.0, 1.4, 1.0], "none", ()),  # a noisy machine says nothing
    ],
)
def test_a_change_of_latency(tmp_path: Path, blocks: list[float], verdict: str, regressions: tuple[str, ...]) -> None:
    base, new = write(tmp_path / "base.json", model(QUIET)), write(tmp_path / "new.json", model(blocks))
    found = compare(base, new)
    (change,) = found.models
    assert change.latency is not None
    assert (change.latency.verdict, change.regressions) == (verdict, regressions)
    assert change.latency.lower <= change.latency.ratio <= change.latency.upper
    assert change.latency.confidence >= 0.95
    if regressions:
        with pytest.raises(
            GateError, match=r"1 model beyond the noise and more than 5.0% worse .*a.onnx \(latency\)"
        ):
            found.require_no_regression()
    else:
        found.require_no_regression()


def test_more_memory_is_a_regression_too(tmp_path: Path) -> None:
    base = write(tmp_path / "base.json", model(QUIET))
    new = write(tmp_path / "new.json", model(QUIET, peak=2 * 10**7))
    assert compare(base, new).models[0].regressions == ("memory",)
    assert compare(base, new, max_regression=1.0).models[0].regressions == ()


def test_what_was_not_measured_is_no_regression(tmp_path: Path) -> None:
    base = write(tmp_path / "base.json", model([], peak=None))
    new = write(tmp_path / "new.json", model(QUIET))
    (change,) = compare(base, new).models
    assert (change.latency, change.memory, change.regressions) == (None, None, ())


def test_different_devices_and_models_are_refused_unless_told(tmp_path: Path) -> None:
    base = write(tmp_path / "base.json", model(QUIET))
    elsewhere = write(tmp_path / "board.json", model(QUIET), device="board")
    other_cpu = write(tmp_path / "cpu.json", model(QUIET), cpu="another CPU")
    renamed = write(tmp_path / "renamed.json", model(QUIET, name="b.onnx"))
    twice = write(tmp_path / "twice.json", model(QUIET), model(QUIET))
    for path, message in (
        (elsewhere, "different devices .device: 'local' and 'board'.*--across-devices"),
        (other_cpu, "different devices .CPU: 'a CPU' and 'another CPU'"),
        (renamed, "different models: only one of them has a.onnx .1 thread., b.onnx .1 thread.; --by-order"),
        (twice, "several models of one file name"),
    ):
        with pytest.raises(UsageError, match=message):
            compare(base, path)
    assert compare(base, elsewhere, across_devices=True).models[0].regressions == ()
    assert compare(base, renamed, by_order=True).models[0].model == "b.onnx"
    with pytest.raises(UsageError, match="cannot pair 1 with 2 models"):
        compare(base, twice, by_order=True)


def test_faulty_files_and_arguments(tmp_path: Path) -> None:
    base = write(tmp_path / "base.json", model(QUIET))
    broken = tmp_path / "broken.json"
    broken.write_text('{"schema": "edgekd.bench/1"}')
    with pytest.raises(DataError, match=r"broken\.json"):
        compare(base, broken)
    for share in (math.nan, math.inf, -0.1):
        with pytest.raises(UsageError, match="max_regression"):
            compare(base, base, max_regression=share)


def test_the_command_line(tmp_path: Path) -> None:
    base = write(tmp_path / "base.json", model(QUIET), model(QUIET, name="b.onnx"))
    slow = model([1.1 * value for value in QUIET], name="b.onnx")
    new = write(tmp_path / "new.json", model(QUIET), slow, verdict="tainted: other work")
    written = tmp_path / "comparison.json"
    result = CliRunner().invoke(command, [str(base), str(new), "--json", str(written)])
    assert isinstance(result.exception, GateError)
    first, second = result.stdout.splitlines()
    assert first.startswith("ok: a.onnx (1 thread): p50 1 ms -> 1 ms, +0.0 %")
    assert second.startswith("regression: b.onnx (1 thread): p50 1 ms -> 1.1 ms, +10.0 %")
    assert "new.json was measured while other work was running" in result.stderr
    content = json.loads(written.read_text())
    assert content["schema"] == "edgekd.comparison/1"
    assert [change["regressions"] for change in content["models"]] == [[], ["latency"]]
    assert CliRunner().invoke(command, [str(base), str(new), "--max-regression", "20%"]).exit_code == 0
    assert "expected a share" in CliRunner().invoke(command, [str(base), str(new), "--max-regression", "-1"]).output


def test_the_interval_is_that_of_the_mann_whitney_test() -> None:
    """For 6 and 6 the two-sided 5 % point of U is 5: the sixth ratio from either end (Hollander et al., table A.6)."""
    values, base = [10.0, 20, 30, 40, 50, 60], [1.0, 3, 5, 7, 11, 13]
    ratios = sorted(value / other for value in values for other in base)
    ratio, lower, upper, confidence = independent_ratio(values, base)
    assert (ratio, lower, upper) == (float(np.median(ratios)), ratios[5], ratios[-6])
    at_most_five = sum(_rank_sum(chosen) <= 5 for chosen in combinations(range(12), 6)) / math.comb(12, 6)
    assert confidence == pytest.approx(1 - 2 * at_most_five)


def test_a_single_block_has_an_interval_of_no_worth() -> None:
    assert independent_ratio([2.0], [1.0]) == (2.0, 2.0, 2.0, 0.0)


def _rank_sum(places: tuple[int, ...]) -> int:
    return sum(places) - sum(range(len(places)))


def test_equal_results_of_many_blocks(tmp_path: Path) -> None:
    many = replace(model(QUIET), block_p50_ms=tuple(QUIET * 5))
    base = write(tmp_path / "base.json", many)
    (change,) = compare(base, base).models
    assert change.latency is not None
    assert (change.latency.ratio, change.latency.verdict) == (1.0, "none")


def test_an_emulated_device_has_nothing_to_compare(tmp_path: Path) -> None:
    base = write(tmp_path / "base.json", model(QUIET))
    new = write(tmp_path / "new.json", model([]), verdict=EMULATED)
    with pytest.raises(UsageError, match=r"new\.json: local is emulated, so nothing was measured"):
        compare(base, new)
