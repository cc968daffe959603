"""At a pace: the schedule on a made-up clock, the script in a process of its own, the verb."""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from standalone import imports_beyond_the_standard_library
from test_runner import job_for

from edgekd.benchmarking import blocks, paced
from edgekd.benchmarking.pacing import PacedModel, pace
from edgekd.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from conftest import MakeModel

SOURCE = Path(paced.__file__)
DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarking.md"


class Clock:
    """A time in ns that passes only in sleeps and runs; a sleep takes a share of what was asked, and some more."""

    def __init__(self, runs_ns: Iterable[int], oversleep_ns: int = 0, shortened: float = 1.0) -> None:
        self.now = 1_000
        self.runs_ns = iter(runs_ns)
        self.oversleep_ns = oversleep_ns
        self.shortened = shortened
        self.asked_s: list[float] = []

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.asked_s.append(seconds)
        self.now += max(1, round(seconds * 1e9 * self.shortened)) + self.oversleep_ns

    def run(self) -> None:
        self.now += next(self.runs_ns)

    def pace(self, period_ns: int, answers: int) -> paced.Paced:
        return paced.pace(
            self.run, period_ns=period_ns, answers=answers, clock=self, sleep=self.sleep, cpu_s=lambda: self.now / 4e9
        )


def test_the_schedule_does_not_drift() -> None:
    """Whatever each sleep is late by, input n is due n periods after the start."""
    clock = Clock([30] * 5, oversleep_ns=7)
    found = clock.pace(100, 5)
    assert list(found.latencies) == [37] * 5
    assert list(found.runs) == [30] * 5
    assert clock.now == 1_000 + 5 * 100 + 37
    assert (found.late, found.skipped) == (0, 0)


def test_a_sleep_that_ends_early_is_taken_up_again() -> None:
    clock = Clock([10] * 2, shortened=0.5)
    found = clock.pace(100, 2)
    assert list(found.latencies) == [10, 10]
    assert len(clock.asked_s) > 2


def test_inputs_that_come_in_meanwhile_are_skipped() -> None:
    """The second run takes 2.5 periods: inputs 3 and 4 are skipped, number 5 is answered in time."""
    clock = Clock([30, 250, 30])
    found = clock.pace(100, 3)
    assert list(found.latencies) == [30, 250, 30]
    assert (found.late, found.skipped) == (1, 2)
    assert clock.now == 1_000 + 500 + 30


def test_an_answer_just_in_time_skips_nothing() -> None:
    clock = Clock([100] * 3)
    found = clock.pace(100, 3)
    assert (found.late, found.skipped, list(found.latencies)) == (0, 0, [100] * 3)
    assert clock.asked_s == [1e-7]  # there was time for one sleep only


def test_cpu_time_is_counted_over_the_paced_stretch() -> None:
    found = Clock([50] * 4).pace(100, 4)
    assert found.wall_s == pytest.approx(450e-9)
    assert found.cpu_s == pytest.approx(found.wall_s / 4)


def test_what_is_pushed_needs_only_the_runner_beside_it() -> None:
    assert imports_beyond_the_standard_library(SOURCE) == set()
    ast.parse(SOURCE.read_text(), feature_version=(3, 9))


def run(folder: Path, job: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    job_file, result = folder / "job.json", folder / "result.json"
    job_file.write_text(json.dumps(job))
    ran = subprocess.run(
        [sys.executable, "-P", SOURCE, job_file, result], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in ran.stderr
    return ran.returncode, json.loads(result.read_text())


def test_the_script(tmp_path: Path, make_model: MakeModel) -> None:
    session = {"arena": False, "spinning": False}
    status, found = run(tmp_path, job_for(make_model(), rate_per_s=100.0, runs=8, threads=2, session=session))
    assert status == 0
    assert len(found["latency_ms"]) == len(found["run_ms"]) == 8
    assert all(latency >= run for latency, run in zip(found["latency_ms"], found["run_ms"], strict=True))
    assert found["paced_s"] > 0.07  # the schedule alone takes that long
    assert found["cpu_s"] > found["paced_cpu_s"] > 0


def test_a_model_that_cannot_run(tmp_path: Path, unrunnable_model: Path) -> None:
    status, found = run(tmp_path, job_for(unrunnable_model, rate_per_s=100.0))
    assert (status, found["error"]["kind"]) == (1, "model")


def test_two_rows_a_model(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "RETAKES", 0)
    result = pace([make_model()], rate_per_s=200.0, runs=20, repeats=2, arena=False)
    assert [model.session for model in result.models] == [
        {"arena": False, "spinning": True, "optimization": "all"},
        {"arena": False, "spinning": False, "optimization": "all"},
    ]
    for model in result.models:
        assert (model.latency_ms.samples, model.run_ms.samples, model.repetitions) == (20, 20, 2)
        assert model.due == 20 + model.skipped
        assert model.missed_deadlines == pytest.approx((model.late + model.skipped) / model.due, abs=1e-6)
        assert model.cpu_share > 0
    form = result.to_json()
    assert (form["schema"], form["rate_per_s"]) == ("edgekd.paced/1", 200.0)
    json.dumps(form, allow_nan=False)


def test_an_emulated_device_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(UsageError, match="qemu-cortex-a53 is emulated: it has no time of its own"):
        pace([make_model()], rate_per_s=10.0, device="qemu-cortex-a53")


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_rate(make_model: MakeModel, rate: float) -> None:
    with pytest.raises(UsageError, match="rate: expected inputs a second"):
        pace([make_model()], rate_per_s=rate)


def test_faults_are_those_of_bench(tmp_path: Path, make_model: MakeModel) -> None:
    with pytest.raises(DataError, match="no such file"):
        pace([make_model()], rate_per_s=10.0, data=tmp_path / "absent.npz")


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(PacedModel)])
def test_every_key_of_a_paced_model_is_documented(key: str) -> None:
    assert f"`.{key}`" in DOCUMENT.read_text()
