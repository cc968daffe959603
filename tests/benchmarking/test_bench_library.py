from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgekd.benchmarking import bench as bench_module
from edgekd.benchmarking.bench import bench
from edgekd.benchmarking.plan import make_plan
from edgekd.benchmarking.results import read_result
from edgekd.drivers.host import read_facts
from edgekd.drivers.local import LocalDriver
from edgekd.errors import DataError, EdgekdError, ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import MakeModel


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


class Listener:
    def __init__(self) -> None:
        self.notes: list[str | None] = []

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Listener]:
        self.total = total
        yield self

    def advance(self, units: int = 1, note: str | None = None) -> None:
        self.notes.append(note)

    def note(self, message: str) -> None:
        raise AssertionError(message)


@pytest.fixture
def nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("a measurement was started")

    monkeypatch.setattr(bench_module, "measure", refuse)


def test_two_models_interleaved(tmp_path: Path, make_model: MakeModel) -> None:
    models = [make_model("a.onnx"), make_model("b.onnx", width=256, batch=2)]
    listener = Listener()
    result = bench(models, runs=100, repeats=2, dims={"batch": 3}, progress=listener)

    assert listener.total == 4
    first_time = [note for note in listener.notes if "again" not in str(note)]  # a busy machine measures again
    assert first_time == [f"{name}.onnx, 1 thread" for name in "abba"]
    first, second = result.models
    assert (first.path, second.path) == tuple(str(model) for model in models)
    assert first.inputs["x"]["shape"] == [3, 16]
    assert second.inputs["x"]["shape"] == [2, 256]
    for model in result.models:
        assert model.latency_ms is not None
        assert (model.latency_ms.samples, model.repetitions) == (100, 2)
        assert model.latency_ms.p99 is None
    assert first.ratio_to_first is None
    assert second.ratio_to_first is not None
    assert second.ratio_to_first.pairs == 2

    written = tmp_path / "result.json"
    written.write_text(json.dumps(result.to_json(), allow_nan=False))
    assert read_result(written) == result


def test_a_spoilt_repetition_is_measured_again(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes 50 s of CPU time during the second repetition, and during each from the fourth on."""
    busy_s = iter([0.0, 0.0, 0.0, 50.0, 50.0, 50.0, *(50.0 * number for number in range(2, 100))])
    facts = read_facts()
    monkeypatch.setattr(LocalDriver, "probe", lambda _: replace(facts, logical_cores=1, busy_cpu_s=next(busy_s)))
    listener = Listener()
    result = bench([make_model()], runs=8, repeats=4, progress=listener)
    assert result.conditions.retaken == 3
    assert "tainted: other work kept" in result.conditions.verdict
    assert result.models[0].repetitions == 4
    assert len([note for note in listener.notes if "again" not in str(note)]) == listener.total == 4
    assert len(listener.notes) == 7


def test_threads_data_and_a_duration(tmp_path: Path, make_model: MakeModel) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 16), np.float32), labels=np.arange(4))
    result = bench(make_model(), threads=(1, 2), duration_s=0.1, repeats=2, data=str(tmp_path / "data.npz"))
    assert [model.threads for model in result.models] == [1, 2]
    assert [model.ratio_to_first for model in result.models] == [None, None]
    for model in result.models:
        assert model.latency_ms is not None
        assert model.latency_ms.samples >= 7


def test_fewer_runs_than_repetitions(make_model: MakeModel) -> None:
    (model,) = bench([make_model()], runs=1).models
    assert model.repetitions == 1
    assert model.latency_ms is not None
    assert (model.latency_ms.samples, model.latency_ms.p50_upper) == (1, None)


def test_blocks_alternate(make_model: MakeModel) -> None:
    plan = make_plan(
        [make_model("a"), make_model("b")],
        threads=(1,),
        duration_s=None,
        runs=10,
        repeats=4,
        data=None,
        dims={},
    )
    assert [index for repetition in range(4) for index in plan.order(repetition)] == [0, 1, 1, 0, 0, 1, 1, 0]
    assert plan.runs == (3, 3, 2, 2)
    assert plan.duration_s == 0


@pytest.mark.usefixtures("nothing_measured")
def test_a_faulty_model_is_found_before_anything_is_measured(
    tmp_path: Path, make_model: MakeModel, unrunnable_model: Path
) -> None:
    broken = tmp_path / "text.onnx"
    broken.write_text("hello")
    for faulty, message in (
        (tmp_path / "absent.onnx", "no such file"),
        (tmp_path, "cannot read"),
        (broken, "cannot load this model"),
        (unrunnable_model, "loads but cannot run"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            bench([make_model(), faulty])
        assert str(caught.value).startswith(str(faulty))
        assert "Traceback" not in str(caught.value)


@pytest.mark.usefixtures("nothing_measured")
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"threads": ()}, UsageError, "threads"),
        ({"threads": (0,)}, UsageError, "threads: expected numbers from 1 to 256, got 0"),
        ({"threads": (1, 257)}, UsageError, "threads: expected numbers from 1 to 256, got 1, 257"),
        ({"runs": 5, "duration_s": 1.0}, UsageError, "not both"),
        ({"runs": 0}, UsageError, "runs"),
        ({"duration_s": 0.0}, UsageError, "duration"),
        ({"duration_s": float("nan")}, UsageError, "duration"),
        ({"repeats": 3}, UsageError, "even"),
        ({"dims": {"batch": 0}}, UsageError, "'batch'"),
        ({"dims": {"bach": 2}}, UsageError, "no model has a dynamic axis 'bach' .perhaps you meant 'batch'"),
        ({"device": "locl"}, UsageError, "perhaps you meant 'local'"),
        ({"data": "absent.npz"}, DataError, "absent.npz: no such file"),
    ],
)
def test_impossible_arguments(
    make_model: MakeModel, changes: dict[str, Any], error: type[EdgekdError], message: str
) -> None:
    with pytest.raises(error, match=message):
        bench([make_model()], **changes)


@pytest.mark.usefixtures("nothing_measured")
def test_more_threads_than_four_a_core(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = replace(read_facts(), logical_cores=2)
    monkeypatch.setattr(LocalDriver, "probe", lambda _: facts)
    with pytest.raises(UsageError, match=r"threads: local has 2 cores, so at most 8 threads .4 a core.*, got 9"):
        bench([make_model()], threads=(1, 9))


@pytest.mark.usefixtures("nothing_measured")
def test_an_input_larger_than_a_quarter_of_the_memory(make_model: MakeModel) -> None:
    model = make_model()
    with pytest.raises(ModelError, match=r"input 'x' of shape \[999999999, 16\] would take 64.0 GB") as caught:
        bench([model], dims={"batch": 999_999_999})
    assert str(caught.value).startswith(str(model))


def test_no_model() -> None:
    with pytest.raises(UsageError, match="no model"):
        bench([])


@pytest.mark.usefixtures("nothing_measured")
def test_data_that_lacks_an_input(tmp_path: Path, make_model: MakeModel) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, y=np.zeros((4, 16), np.float32))
    with pytest.raises(DataError, match="no array named 'x'; it holds: y") as caught:
        bench([make_model()], data=path)
    assert str(caught.value).startswith(str(path))


def test_the_parent_never_loads_onnxruntime(make_model: MakeModel) -> None:
    program = (
        "import sys\n"
        "from edgekd.benchmarking.bench import bench\n"
        "assert not {'pydantic', 'onnx', 'onnxruntime', 'torch'} & set(sys.modules)\n"
        f"bench([{str(make_model())!r}], runs=2, repeats=2)\n"
        "assert not {'onnx', 'onnxruntime', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
