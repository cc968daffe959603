from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto
from standalone import imports_beyond_the_standard_library

from edgekd.benchmarking import runner

if TYPE_CHECKING:
    from conftest import MakeEcho, MakeModel

SOURCE = Path(runner.__file__)
SLACK_BYTES = 2 << 20  # the kernel counts pages in batches per CPU
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def job_for(model: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": str(model),
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "threads": 1,
        "data": None,
        "dims": {},
        "seed": 0,
        "runs": 20,
        "duration_s": 0.0,
        "rehearsal": False,
        "journal": None,
    } | changes


def run(folder: Path, job: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    job_file, result = folder / "job.json", folder / "result.json"
    job_file.write_text(json.dumps(job))
    finished = subprocess.run(
        [sys.executable, "-P", SOURCE, job_file, result], capture_output=True, text=True, check=False
    )
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    return finished.returncode, json.loads(result.read_text())


def test_it_needs_nothing_but_the_standard_library_numpy_and_onnxruntime() -> None:
    assert imports_beyond_the_standard_library(SOURCE) == {"numpy", "onnxruntime"}


def test_it_is_python_3_9() -> None:
    ast.parse(SOURCE.read_text(), feature_version=(3, 9))


@pytest.fixture
def measured(tmp_path: Path, make_model: MakeModel) -> dict[str, Any]:
    status, result = run(tmp_path, job_for(make_model(width=512), runs=25))
    assert status == 0
    return result


def test_it_times_the_runs_it_was_asked_for(measured: dict[str, Any]) -> None:
    assert len(measured["samples_ms"]) == 25
    assert min(*measured["samples_ms"], measured["load_ms"], measured["first_run_ms"], measured["cpu_s"]) > 0
    assert measured["warm_up"]["runs"] >= runner.WINDOW_RUNS
    assert measured["inputs"] == {"x": {"dtype": "float32", "shape": [1, 512]}}
    assert measured["dynamic_axes"] == ["batch"]


@on_linux
def test_memory_phases_build_on_one_another(measured: dict[str, Any]) -> None:
    memory = measured["memory_bytes"]
    assert list(memory) == list(runner.PHASES)
    assert measured["unavailable"] == []
    assert memory["import"] > memory["interpreter"] + (4 << 20)
    assert memory["session"] > memory["import"]  # the weight alone is 1 MiB
    assert memory["session_peak"] >= memory["session"] - SLACK_BYTES
    assert memory["peak"] == max(memory.values())


@on_linux
def test_the_peak_of_a_parent_is_not_the_childs(tmp_path: Path, make_model: MakeModel) -> None:
    ballast = np.ones(300 << 20, np.uint8)
    _, result = run(tmp_path, job_for(make_model(), rehearsal=True))
    assert ballast[-1] == 1
    assert result["memory_bytes"]["interpreter"] < 100 << 20
    assert result["memory_bytes"]["peak"] < 250 << 20


def test_a_rehearsal_of_more_runs(monkeypatch: pytest.MonkeyPatch, make_model: MakeModel) -> None:
    """What an emulator's plugin counts: exactly so many runs, whatever they take."""
    runs = []

    class Counted:
        def __init__(self, session: Any) -> None:
            self.get_inputs = session.get_inputs
            self.run = lambda *arguments: runs.append(session.run(*arguments))

    opened = runner.open_session
    monkeypatch.setattr(runner, "open_session", lambda *arguments: Counted(opened(*arguments)))
    result = runner.measure(job_for(make_model(), rehearsal=True, more_runs=4))
    assert len(runs) == 5
    assert "samples_ms" not in result
    runner.measure(job_for(make_model(), rehearsal=True))
    assert len(runs) == 6


@on_linux
def test_the_peak_of_an_earlier_phase_is_not_a_later_ones() -> None:
    meter = runner.MemoryMeter()
    with meter.highest("session_peak"):
        ballast = np.ones(200 << 20, np.uint8)
        del ballast
    with meter.highest("steady"):
        pass
    peak, steady, overall = (meter.phases[phase] for phase in ("session_peak", "steady", "peak"))
    assert peak is not None
    assert steady is not None
    assert overall is not None
    assert steady < peak - (150 << 20)
    assert overall >= peak


def test_without_a_reset_only_a_risen_peak_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([100, 100, 300, 300, 300, 300, 300, 300])
    monkeypatch.setattr(runner, "read_memory", lambda: (None, next(peaks)))
    monkeypatch.setattr(runner, "reset_peak", lambda: False)
    meter = runner.MemoryMeter()
    with meter.highest("session_peak"):
        pass
    with meter.highest("steady"):
        pass
    assert (meter.phases["session_peak"], meter.phases["steady"], meter.phases["peak"]) == (300, None, 300)
    assert "steady" in meter.unavailable()
    assert "session_peak" not in meter.unavailable()


def test_a_system_that_tells_nothing_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "read_memory", lambda: (None, None))
    meter = runner.MemoryMeter()
    meter.settled("session")
    with meter.highest("steady"):
        pass
    assert meter.unavailable() == list(runner.PHASES)


def test_another_file_is_refused_before_it_is_loaded(tmp_path: Path, make_model: MakeModel) -> None:
    status, result = run(tmp_path, job_for(make_model(), sha256="0" * 64))
    assert status == 1
    assert result["error"]["kind"] == "model"
    assert f"expected sha256 {'0' * 64}, found" in result["error"]["message"]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x09\x12" + b"\xff" * 64])
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "broken.onnx"
    model.write_bytes(content)
    status, result = run(tmp_path, job_for(model))
    assert status == 1
    assert result["error"]["kind"] == "model"
    assert "cannot load this model" in result["error"]["message"]


def test_a_model_that_loads_and_cannot_run(tmp_path: Path, unrunnable_model: Path) -> None:
    status, result = run(tmp_path, job_for(unrunnable_model))
    assert status == 1
    assert result["error"]["kind"] == "model"
    assert result["error"]["message"].startswith("the model loads but cannot run: ")


def test_inputs_are_made_up_from_their_types(tmp_path: Path, make_echo: MakeEcho) -> None:
    declared = [
        ("image", TensorProto.FLOAT16, ["batch", 3, 4]),
        ("ids", TensorProto.INT64, ["batch", "length"]),
        ("attention_mask", TensorProto.INT64, ["batch", "length"]),
        ("scale", TensorProto.DOUBLE, []),
        ("flag", TensorProto.BOOL, ["other"]),
    ]
    status, result = run(tmp_path, job_for(make_echo(declared), dims={"length": 7}, rehearsal=True))
    assert status == 0
    assert result["inputs"] == {
        "image": {"dtype": "float16", "shape": [1, 3, 4]},
        "ids": {"dtype": "int64", "shape": [1, 7]},
        "attention_mask": {"dtype": "int64", "shape": [1, 7]},
        "scale": {"dtype": "float64", "shape": []},
        "flag": {"dtype": "bool", "shape": [1]},
    }
    assert "samples_ms" not in result


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [("mask", "tensor(float)", {1}), ("ids", "tensor(int32)", {0, 1}), ("on", "tensor(bool)", {1})],
)
def test_made_up_values(name: str, kind: str, expected: set[int]) -> None:
    values = runner.generate(SimpleNamespace(name=name, type=kind), [4, 50], 0)
    assert set(values.ravel().tolist()) == expected


def test_made_up_floats_are_the_same_every_time() -> None:
    declared = SimpleNamespace(name="x", type="tensor(float)")
    first, second = (runner.generate(declared, [1000], 3) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert abs(first.mean()) < 0.2
    assert abs(first.std() - 1) < 0.2


@pytest.mark.parametrize("kind", ["tensor(string)", "tensor(bfloat16)", "seq(tensor(float))", "tensor(int4)"])
def test_an_input_that_cannot_be_made_up(kind: str) -> None:
    with pytest.raises(runner.JobError, match="only tensors of plain numbers"):
        runner.generate(SimpleNamespace(name="x", type=kind), [1], 0)


@pytest.mark.parametrize("size", [10**13, 10**18])
def test_an_input_that_does_not_fit_into_memory(tmp_path: Path, make_model: MakeModel, size: int) -> None:
    status, result = run(tmp_path, job_for(make_model(), dims={"batch": size}))
    assert status == 1
    assert result["error"]["kind"] == "device"
    assert "is too large" in result["error"]["message"]


def test_data_gives_its_first_rows(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    x = np.arange(60, dtype=np.float32).reshape(5, 3, 4)
    np.savez(path, x=x, labels=np.arange(5))
    np.testing.assert_array_equal(runner.read_rows(str(path), "x", 2), x[:2])
    np.savez_compressed(path, x=x)
    np.testing.assert_array_equal(runner.read_rows(str(path), "x", 2), x[:2])
    declared = SimpleNamespace(name="x", type="tensor(float)", shape=["batch", 3, 4])
    np.testing.assert_array_equal(runner.read_sample(str(path), declared, [None, 3, 4]), x[:1])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 4), np.float32), "gives \\[2, 4\\], the model takes"),
        (np.zeros((1, 3), np.float32), "at least 2 along the first axis"),
        (np.zeros((5, 3), np.int64), "is int64, the model takes float32"),
        (np.zeros((3, 5), np.float32).T, "row-major"),
        (np.array(["a", None] * 2, object), "expected numbers"),
        (np.float32(1), "expected numbers"),
    ],
)
def test_data_that_does_not_fit(tmp_path: Path, array: Any, message: str) -> None:
    np.savez(tmp_path / "data.npz", x=array)
    declared = SimpleNamespace(name="x", type="tensor(float)", shape=[2, 3])
    with pytest.raises(runner.JobError, match=message) as caught:
        runner.read_sample(str(tmp_path / "data.npz"), declared, [2, 3])
    assert caught.value.kind == "data"


@pytest.mark.parametrize("damage", ["no zip", "cut off", "other name"])
def test_damaged_data(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **{"y" if damage == "other name" else "x": np.zeros((5, 3), np.float32)})
    if damage == "no zip":
        path.write_bytes(b"hello")
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(runner.JobError) as caught:
        runner.read_rows(str(path), "x", 2)
    assert caught.value.kind == "data"


def test_timed_runs_go_on_until_both_limits_are_reached() -> None:
    assert len(runner.time_runs(lambda: None, 13, 0.0)) == 13
    assert len(runner.time_runs(lambda: None, 1, 0.01)) > 1


def test_timed_runs_are_kept_while_they_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "samples.jsonl"
    seen: list[int] = []

    def inference() -> None:
        seen.append(len(journal.read_text().splitlines()) if journal.exists() else 0)

    monkeypatch.setattr(runner, "JOURNAL_EVERY_S", 0.005)
    samples = runner.time_runs(inference, 3, 0.05, str(journal))
    lines = [json.loads(line)["samples_ms"] for line in journal.read_text().splitlines()]
    assert [value for line in lines for value in line] == [nanoseconds / 1e6 for nanoseconds in samples]
    assert max(seen) >= 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still unless told, in place of the runner's."""
    state = SimpleNamespace(now_ns=0)
    monkeypatch.setattr(runner.time, "perf_counter_ns", lambda: state.now_ns)
    return state


def test_the_warm_up_ends_when_two_windows_agree(clock: SimpleNamespace) -> None:
    times_ms = iter([80.0] * 5 + [50.0] * 5 + [49.0] * 5)

    def inference() -> None:
        clock.now_ns += int(next(times_ms) * 1e6)

    assert runner.warm_up(inference) == {"runs": 15, "steady": True}


def test_the_warm_up_has_an_end(clock: SimpleNamespace) -> None:
    def inference() -> None:
        clock.now_ns += 10_000_000 + clock.now_ns // 5

    answer = runner.warm_up(inference)
    assert answer["steady"] is False
    assert answer["runs"] > 1


def test_telemetry_is_off_before_onnxruntime_is_imported(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text(
        "import os\nraise ImportError('telemetry disabled: ' + os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    model = tmp_path / "model.onnx"
    model.write_bytes(b"any")
    (tmp_path / "job.json").write_text(json.dumps(job_for(model)))
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment["PYTHONPATH"] = str(tmp_path)
    command = [sys.executable, "-P", SOURCE, tmp_path / "job.json", tmp_path / "result.json"]
    assert subprocess.run(command, check=False, env=environment).returncode == 1
    error = json.loads((tmp_path / "result.json").read_text())["error"]
    assert error["kind"] == "device"
    assert error["message"].endswith("telemetry disabled: 1")


class Options:
    """Takes the options of a session, as onnxruntime's SessionOptions does."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.enable_cpu_mem_arena = True

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


@pytest.mark.parametrize(
    ("session", "arena", "entries"),
    [
        (None, True, {}),
        ({"arena": True, "spinning": True}, True, {}),
        ({"arena": False, "spinning": True}, False, {}),
        ({"spinning": False}, True, {"session.intra_op.allow_spinning": "0"}),
    ],
)
def test_the_session_has_the_jobs_options(
    session: dict[str, bool] | None, arena: bool, entries: dict[str, str]
) -> None:
    made: list[Options] = []
    runtime = SimpleNamespace(
        SessionOptions=Options,
        GraphOptimizationLevel=SimpleNamespace(ORT_ENABLE_ALL=99),
        InferenceSession=lambda _model, options, **_: made.append(options),
    )
    runner.open_session(runtime, "m.onnx", 2, session)
    assert (made[0].enable_cpu_mem_arena, made[0].entries) == (arena, entries)


@on_linux
def test_what_is_resident_by_kind(tmp_path: Path, make_model: MakeModel) -> None:
    status, found = run(tmp_path, job_for(make_model(), session={"arena": False, "spinning": True}))
    kinds = found["resident_bytes"]
    assert (status, set(kinds)) == (0, {"anonymous", "file", "pss"})
    total = kinds["anonymous"] + kinds["file"]
    assert abs(total - found["memory_bytes"]["steady"]) < found["memory_bytes"]["steady"] / 4
    assert kinds["anonymous"] <= kinds["pss"] + SLACK_BYTES
    assert kinds["pss"] <= total + SLACK_BYTES


def test_what_proc_does_not_tell_is_null(tmp_path: Path) -> None:
    assert runner.read_resident(str(tmp_path)) == {"anonymous": None, "file": None, "pss": None}
    (tmp_path / "status").write_text("Name:\tpython\nRssAnon:\t  20 kB\nRssFile:\t   4 kB\nThreads:\t1\n")
    (tmp_path / "smaps_rollup").write_text("00400000-7ffd [rollup]\nRss:  24 kB\nPss:   21 kB\n")
    assert runner.read_resident(str(tmp_path)) == {"anonymous": 20 * 1024, "file": 4 * 1024, "pss": 21 * 1024}
