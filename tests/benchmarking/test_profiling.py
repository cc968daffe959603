"""Where the time goes: events of a made-up profile, the script in a process of its own, the verb."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from standalone import imports_beyond_the_standard_library
from test_runner import job_for

from edgekd.benchmarking import blocks, profiled
from edgekd.benchmarking.bench import bench
from edgekd.benchmarking.profiling import NodeTime, OperatorTime, Profile, kind_of, summarise
from edgekd.benchmarking.results import read_result
from edgekd.drivers.local import LocalDriver

if TYPE_CHECKING:
    from conftest import MakeModel

SOURCE = Path(profiled.__file__)
DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarking.md"


@pytest.fixture(autouse=True)
def never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other work spoils is not measured again: no figure is looked at here."""
    monkeypatch.setattr(blocks, "RETAKES", 0)


def whole(ts: int, dur: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "args": {}}


def kernel(name: str, operator: str, ts: int, dur: int, index: int = 0, kind: str = "float") -> dict[str, Any]:
    args = {"op_name": operator, "node_index": str(index), "input_type_shape": [{kind: [1, 3]}, {"int64": []}]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}


def test_nodes_are_gathered_by_run_and_the_warm_up_does_not_count() -> None:
    events = [
        {"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 90, "args": {}},
        *(kernel("a", "Conv", 100, 50), kernel("b", "Gemm", 150, 9), whole(95, 70)),
        *(kernel("a", "Conv", 200, 20), kernel("b", "Gemm", 221, 5), whole(195, 40)),
        *(kernel("b", "Gemm", 330, 7), kernel("a", "Conv", 300, 22), whole(295, 50)),
        {"cat": "Node", "name": "a_fence_before", "ts": 300, "dur": 4, "args": {"op_name": "Conv"}},
    ]
    runs_ms, nodes = profiled.gather(events, 1)
    assert runs_ms == [0.04, 0.05]
    assert [(node.name, node.operator, node.types, node.times, node.calls) for node in nodes] == [
        ("a", "Conv", ["float", "int64"], [20, 22], 2),
        ("b", "Gemm", ["float", "int64"], [5, 7], 2),
    ]


def test_a_loop_does_not_count_what_it_holds() -> None:
    """A Loop of 100 us whose body, of two nodes, runs twice; one of the body has the Loop's own number."""
    events = [
        whole(0, 130),
        kernel("loop", "Loop", 10, 100, index=4),
        *(kernel("in", "Add", 20, 30, index=4), kernel("", "Mul", 51, 9, index=1)),
        *(kernel("in", "Add", 60, 20, index=4), kernel("", "Mul", 80, 10, index=1)),
        kernel("after", "Relu", 110, 5, index=5),
    ]
    _, nodes = profiled.gather(events, 0)
    assert {node.operator: (node.times, node.calls) for node in nodes} == {
        "Loop": ([31], 1),
        "Add": ([50], 2),
        "Mul": ([19], 2),
        "Relu": ([5], 1),
    }


@pytest.mark.parametrize(("run_s", "runs"), [(0.1, 30), (1.0, 11), (60.0, 5)])
def test_slow_models_are_run_less_often(run_s: float, runs: int) -> None:
    done = 0

    def run() -> None:
        nonlocal done
        done += 1

    profiled.run_profiled(run, clock=lambda: max(0, done - profiled.WARM_UP_RUNS) * run_s)
    assert done == profiled.WARM_UP_RUNS + runs


@pytest.mark.parametrize(
    ("operator", "types", "kind"),
    [
        ("QLinearConv", ["uint8", "float", "uint8", "int8"], "int8"),
        ("DynamicQuantizeMatMul", ["float", "int8", "float"], "int8"),
        ("DynamicQuantizeMatMul", ["float"], "int8"),  # onnxruntime has repacked the weights and does not name them
        ("MaxPool", ["uint8"], "int8"),
        ("QuantizeLinear", ["float", "float", "uint8"], "movement"),
        ("DequantizeLinear", ["uint8", "float", "uint8"], "movement"),
        ("ReorderOutput", ["float"], "movement"),
        ("Cast", ["int64"], "movement"),
        ("Conv", ["float", "float"], "float"),
        ("MatMul", ["float16", "float16"], "float"),
        ("Shape", ["float"], "other"),
        ("Range", ["int64", "int64"], "other"),
        ("Constant", [], "other"),
    ],
)
def test_kinds_of_work(operator: str, types: list[str], kind: str) -> None:
    assert kind_of(operator, types) == kind


def node(name: str, operator: str, time_us: list[int], types: list[str]) -> dict[str, Any]:
    return {"name": name, "operator": operator, "types": types, "calls": 1.0, "time_us": time_us}


def test_a_profile_adds_up_and_stands_beside_the_latency_without_a_profiler() -> None:
    nodes = [
        node("q", "QuantizeLinear", [10, 10, 10], ["float"]),
        node("c1", "QLinearConv", [50, 5000, 40], ["uint8"]),  # the system interrupted a run
        node("c2", "QLinearConv", [30, 30, 30], ["uint8"]),
        node("", "Conv", [10, 10, 10], ["float"]),
    ]
    found = summarise({"runs": 3, "run_ms": [0.2, 6.0, 0.3], "nodes": nodes}, p50_ms=0.08)
    assert (found.runs, found.run_ms, found.nodes_ms, found.nodes_over_p50) == (3, 0.3, 0.1, 1.25)
    assert found.kinds == {"int8": 0.8, "float": 0.1, "movement": 0.1, "other": 0.0}
    assert found.operators[0] == OperatorTime(
        operator="QLinearConv", kind="int8", nodes=2, calls=2, time_us=80, share=0.8
    )
    assert [row.name for row in found.nodes] == ["c1", "c2", "q", "Conv"]
    assert sum(row.share for row in found.operators) == sum(row.share for row in found.nodes) == pytest.approx(1)


def test_a_profile_without_nodes_has_no_shares() -> None:
    found = summarise({"runs": 5, "run_ms": [0.1] * 5, "nodes": []}, p50_ms=0.1)
    assert (found.nodes_ms, set(found.kinds.values()), found.operators) == (0, {0.0}, ())


def test_what_is_pushed_needs_only_the_runner_beside_it() -> None:
    assert imports_beyond_the_standard_library(SOURCE) == set()
    ast.parse(SOURCE.read_text(), feature_version=(3, 9))


def run(folder: Path, job: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    (folder / "job.json").write_text(json.dumps(job))
    ran = subprocess.run(
        [sys.executable, "-P", SOURCE, "job.json", "result.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in ran.stderr
    return ran.returncode, json.loads((folder / "result.json").read_text())


def test_the_script_leaves_nothing_but_its_result(tmp_path: Path, make_model: MakeModel) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    status, found = run(folder, job_for(make_model()))
    assert status == 0
    assert found["runs"] == len(found["run_ms"]) == profiled.MOST_RUNS
    (only,) = found["nodes"]
    assert (only["operator"], set(only["types"]), only["calls"]) == ("MatMul", {"float"}, 1.0)
    assert len(only["time_us"]) == found["runs"]
    assert {path.name for path in folder.iterdir()} == {"job.json", "result.json"}


def test_a_model_that_cannot_run_leaves_no_profile(tmp_path: Path, unrunnable_model: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    status, found = run(folder, job_for(unrunnable_model))
    assert (status, found["error"]["kind"]) == (1, "model")
    assert {path.name for path in folder.iterdir()} == {"job.json", "result.json"}


def test_bench_with_a_profile(tmp_path: Path, make_model: MakeModel) -> None:
    result = bench([make_model("a.onnx"), make_model("b.onnx", width=64)], runs=8, repeats=2, profile=True)
    for model in result.models:
        assert model.latency_ms is not None
        assert model.latency_ms.samples == 8
        assert model.profile is not None
        assert [row.operator for row in model.profile.operators] == ["MatMul"]
        assert model.profile.nodes_over_p50 == pytest.approx(model.profile.nodes_ms / model.latency_ms.p50, rel=1e-3)
    written = tmp_path / "result.json"
    written.write_text(json.dumps(result.to_json(), allow_nan=False))
    assert read_result(written) == result


def test_without_asking_there_is_no_profile(make_model: MakeModel) -> None:
    (model,) = bench([make_model()], runs=2, repeats=2).models
    assert model.profile is None


def test_an_emulated_device_has_no_profile(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalDriver, "emulated", True)
    (model,) = bench([make_model()], runs=2, repeats=2, profile=True).models
    assert (model.profile, model.latency_ms) == (None, None)


@pytest.mark.parametrize("key", [field.name for kind in (Profile, OperatorTime, NodeTime) for field in fields(kind)])
def test_every_key_of_a_profile_is_documented(key: str) -> None:
    section = DOCUMENT.read_text().partition("## Where the time goes")[2].partition("\n## ")[0]
    assert f"`{key}`" in section
