from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from edgekd.benchmarking.conditions import Conditions, Span, judge
from edgekd.benchmarking.results import BenchResult, Device, Latency, ModelResult, read_result
from edgekd.benchmarking.statistics import paired_ratio
from edgekd.drivers import Facts
from edgekd.drivers.limits import Limits
from edgekd.drivers.protocol import Process
from edgekd.drivers.throttling import Throttling
from edgekd.errors import DataError
from edgekd.text import conditions_text

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarking.md"


def facts(busy_cpu_s: float | None = 100.0, load_average: float | None = 0.1) -> Facts:
    return Facts(
        target="x86-avx2",
        cpu_model="a CPU",
        logical_cores=4,
        governor="unavailable",
        load_average=load_average,
        busy_cpu_s=busy_cpu_s,
    )


def judged(before: Facts, after: Facts, *, own_cpu_s: float, elapsed_s: float) -> Conditions:
    span = Span(before=before, after=after, own_cpu_s=own_cpu_s, elapsed_s=elapsed_s)
    return judge([span], onnxruntime="1.32.0")


def result() -> BenchResult:
    model = ModelResult(
        path="a.onnx",
        sha256="0" * 64,
        threads=1,
        inputs={"x": {"dtype": "float32", "shape": [1, 3]}},
        repetitions=2,
        load_ms=4,
        first_run_ms=2.5,
        latency_ms=Latency.of([[1.0, 1.25] * 30]),
        block_p50_ms=(1.0, 1.25),
        warmed_up=True,
        memory_bytes={"import": 5, "steady": None},
        ratio_to_first=paired_ratio([1.0, 2.0], [2.0, 1.0]),
    )
    conditions = judged(facts(), facts(), own_cpu_s=0, elapsed_s=1)
    return BenchResult(device=Device(name="local", target="x86-avx2"), conditions=conditions, models=(model,))


def test_percentiles_that_the_sample_cannot_support_are_null() -> None:
    latency = Latency.of([[1.0] * 50])
    assert (latency.p50, latency.p90, latency.p95, latency.p99) == (1.0, 1.0, None, None)
    assert (latency.p50_upper, latency.p90_upper, latency.p95_upper, latency.p99_upper) == (1.0, 1.0, None, None)
    assert latency.runs_needed == {"p95": 90, "p99": 459}
    assert latency.samples == 50
    assert Latency.of([[1.0] * 5]).runs_needed == {"p50": 7, "p90": 44, "p95": 90, "p99": 459}


def test_correlated_runs_have_wider_bounds_than_independent_ones() -> None:
    """Runs that come in long stretches of slow and fast are worth fewer than they are."""
    alternating = [[1.0, 2.0] * 250] * 2
    stretches = [([1.0] * 50 + [2.0] * 50) * 5] * 2
    assert Latency.of(alternating).autocorrelation < 0
    assert Latency.of(alternating).p99_upper == 2.0
    correlated = Latency.of(stretches)
    assert correlated.autocorrelation == pytest.approx(0.962, abs=0.001)
    assert (correlated.p99, correlated.p99_upper) == (None, None)
    assert correlated.runs_needed["p99"] > 20 * 459


def test_the_json_form() -> None:
    form = result().to_json()
    assert form["schema"] == "edgekd.bench/1"
    assert form["device"] == {"name": "local", "target": "x86-avx2"}
    assert form["conditions"]["verdict"] == "valid"
    (model,) = form["models"]
    assert {"path", "sha256", "threads", "latency_ms", "memory_bytes", "ratio_to_first"} <= set(model)
    assert {"p50", "p90", "p95", "p99", "samples", "p90_upper"} <= set(model["latency_ms"])
    assert {"median", "min", "max", "pairs", "lower", "upper", "noise_floor", "verdict"} <= set(
        model["ratio_to_first"]
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result().to_json()))
    assert read_result(path) == result()


def test_keys_of_later_versions_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    form = result().to_json()
    form["energy"] = form["models"][0]["energy_j"] = 1.5
    path.write_text(json.dumps(form))
    assert read_result(path) == result()


def _spoil(form: dict[str, Any], key: str, value: object) -> str:
    *parents, last = key.split(".")
    target: Any = form
    for parent in parents:
        target = target[int(parent) if parent.isdigit() else parent]
    target[last] = value
    return json.dumps(form)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema", "edgekd.evaluation/1", "expected a benchmark result"),
        ("schema", None, "found schema None"),
        ("models.0.threads", "1", "models.0.threads"),
        ("models.0.latency_ms.p50", None, "models.0.latency_ms.p50"),
        ("models.0.memory_bytes", {"import": 1.5}, "models.0.memory_bytes.import"),
        ("models.0.load_ms", float("nan"), "found NaN"),
        ("models", {}, "models"),
        ("device", {"name": "local"}, "device.target"),
    ],
)
def test_a_faulty_result_is_refused_by_name(tmp_path: Path, key: str, value: object, message: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(_spoil(result().to_json(), key, value))
    with pytest.raises(DataError, match=message) as caught:
        read_result(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[]", b'{"schema": "edgekd.bench/1"', b"1e999", b"[" * 100_000, b"9" * 5000]
)
def test_a_file_that_is_no_result(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_result(path)
    with pytest.raises(DataError, match="no such benchmark result"):
        read_result(tmp_path / "absent.json")


def test_own_work_does_not_taint() -> None:
    found = judged(facts(100), facts(110), own_cpu_s=9.5, elapsed_s=10)
    assert (found.verdict, found.others_busy_cores) == ("valid", 0.05)


def test_work_that_ended_before_does_not_taint() -> None:
    found = judged(facts(100, 3.5), facts(110), own_cpu_s=10, elapsed_s=10)
    assert (found.verdict, found.load_average_before) == ("valid", 3.5)


def test_other_work_taints() -> None:
    found = judged(facts(100), facts(130), own_cpu_s=10, elapsed_s=10)
    assert found.verdict == "tainted: other work kept 2.0 of 4 cores busy"


def test_without_cpu_time_the_load_average_decides() -> None:
    busy = judged(facts(None, 2.5), facts(None), own_cpu_s=10, elapsed_s=10)
    assert busy.verdict == "tainted: the load average was 2.5 on 4 cores before the start"
    assert busy.others_busy_cores is None
    silent = judged(facts(None, None), facts(None, None), own_cpu_s=10, elapsed_s=10)
    assert silent.verdict == "valid"


def test_a_throttled_processor_taints() -> None:
    """What happened before and is over is no fault; what happened in between is one."""
    cool = Throttling(now=(), counts={"core too hot": 3})
    before = replace(facts(), throttling=cool)
    assert judged(before, before, own_cpu_s=0, elapsed_s=1).throttling == "none"
    hot = replace(facts(), throttling=replace(cool, counts={"core too hot": 4}))
    found = judged(before, hot, own_cpu_s=0, elapsed_s=1)
    assert (found.verdict, found.throttling) == (
        "tainted: the processor was slowed down (core too hot)",
        "core too hot",
    )
    span = Span(before=before, after=hot, own_cpu_s=0, elapsed_s=1)
    assert span.taint == "the processor was slowed down (core too hot)"
    busy = judged(before, replace(hot, busy_cpu_s=500.0), own_cpu_s=0, elapsed_s=100)
    assert busy.verdict == (
        "tainted: other work kept 4.0 of 4 cores busy; the processor was slowed down (core too hot)"
    )


def test_no_sensor_is_no_fault() -> None:
    found = judged(facts(), facts(), own_cpu_s=0, elapsed_s=1)
    assert (found.verdict, found.throttling) == ("valid", "unavailable")
    assert (found.frequencies_mhz_before, found.temperatures_c_after, found.busy_processes, found.limits) == (
        *(None, None),
        *(None, None),
    )


def test_a_containers_quota_is_no_sensor() -> None:
    unsensed = replace(facts(), throttling=Throttling(now=(), counts={"quota": 1}, sensed=False))
    assert judged(unsensed, unsensed, own_cpu_s=0, elapsed_s=1).throttling == "unavailable"
    stopped = replace(unsensed, throttling=Throttling(now=(), counts={"quota": 2}, sensed=False))
    assert judged(unsensed, stopped, own_cpu_s=0, elapsed_s=1).verdict.startswith("tainted: the processor was")


def test_other_processes_are_named() -> None:
    """By the time they used between the readings; what began meanwhile counts whole, a reused number is another."""
    before = replace(
        facts(), processes={"7:1": Process(name="ffmpeg", cpu_s=100), "8:1": Process(name="cat", cpu_s=9)}
    )
    after = replace(
        facts(130),
        processes={
            "7:1": Process(name="ffmpeg", cpu_s=115),
            "8:2": Process(name="make", cpu_s=10),
            "9:3": Process(name="idle", cpu_s=0.1),
        },
    )
    found = judged(before, after, own_cpu_s=0, elapsed_s=10)
    assert found.busy_processes == {"ffmpeg": 1.5, "make": 1.0}
    assert found.verdict == "tainted: other work kept 3.0 of 4 cores busy (ffmpeg 1.5, make 1.0)"


def test_the_conditions_in_full_are_read_back_and_told_in_a_line(tmp_path: Path) -> None:
    before = replace(
        facts(),
        cores=("4x Cortex-A76",),
        flags=("asimd", "asimddp"),
        frequencies_mhz={"cpu0": 2400.0, "cpu1": 1500.0},
        temperatures_c={"cpu-thermal 0": 45.2},
        throttling=Throttling(now=(), counts={}),
        limits=Limits(cpus=1.5, memory_bytes=None),
        battery_percent=80.0,
    )
    after = replace(before, frequencies_mhz={"cpu0": 1800.0}, temperatures_c={"cpu-thermal 0": 61.0})
    full = replace(result(), conditions=judged(before, after, own_cpu_s=0, elapsed_s=1))
    path = tmp_path / "result.json"
    path.write_text(json.dumps(full.to_json()))
    assert read_result(path) == full
    assert conditions_text(full.to_json()["conditions"]) == (
        "governor unavailable; clock 2400 -> 1800 MHz; hottest sensor 45.2 -> 61 °C; throttling none; "
        "load average 0.10; container 1.5 cores"
    )


def test_results_of_before_the_sensors_are_still_read(tmp_path: Path) -> None:
    form = result().to_json()
    late = {field.name for field in fields(Conditions)} - {
        *("verdict", "cpu_model", "logical_cores", "governor"),
        *("load_average_before", "others_busy_cores", "onnxruntime"),
    }
    form["conditions"] = {key: value for key, value in form["conditions"].items() if key not in late}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(form))
    assert read_result(path).conditions.throttling == "unavailable"
    assert "clock unavailable" in conditions_text(form["conditions"])


@pytest.mark.parametrize("key", [field.name for kind in (Conditions, ModelResult) for field in fields(kind)])
def test_every_key_is_documented(key: str) -> None:
    assert f"`{key}`" in DOCUMENT.read_text() or f"`.{key}`" in DOCUMENT.read_text()
