"""Run one model in this fresh process under onnxruntime's own profiler: the time of every node.

    python profiled.py JOB.json RESULT.json

This file is pushed to boards as it is, beside `runner.py`: Python >= 3.9, the standard library, numpy and
onnxruntime; nothing of edgekd. Profiling slows every node down, so a process that profiles measures nothing else.

JOB: what a job of `runner.py` holds (its head says what); `runs` and `duration_s` are not looked at.

RESULT: `runs` (profiled, after a few that do not count), `run_ms` (of each, as the profiler has it) and `nodes`, in
the order in which they first ran: `name` and `operator` in the graph as onnxruntime has optimized it, `types` (of its
inputs), `calls` (a run) and `time_us` (of each run; what a Loop or an If holds is not its own time); or an error, as
of `runner.py`.
"""

from __future__ import annotations

import json
import platform
import runpy
import sys
import time
from bisect import bisect_right
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

WARM_UP_RUNS = 5
MOST_RUNS = 30
FEWEST_RUNS = 5
LONGEST_S = 10.0  # more than the fewest runs are made only within this time
KERNEL = "_kernel_time"


class Node:
    """One node of the optimized graph: its time in each run, in us, and how often it ran in all of them."""

    def __init__(self, name: str, operator: str, types: list[str], runs: int) -> None:
        self.name = name
        self.operator = operator
        self.types = types
        self.times = [0] * runs
        self.calls = 0


def own_times(events: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """Return the events of nodes in the order of time, each with its own time in us.

    A node with a graph inside lasts as long as that graph's nodes together, and these have events of their own.
    """
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(KERNEL)]
    kernels.sort(key=lambda event: (event["ts"], -event["dur"]))
    own = [event["dur"] for event in kernels]
    around: list[int] = []
    for index, event in enumerate(kernels):
        while around and kernels[around[-1]]["ts"] + kernels[around[-1]]["dur"] < event["ts"] + event["dur"]:
            around.pop()
        if around:
            own[around[-1]] -= event["dur"]
        around.append(index)
    return list(zip(kernels, own))  # noqa: B905 - Python 3.9


def gather(events: list[dict[str, Any]], warm_up: int) -> tuple[list[float], list[Node]]:
    """Return the time of each run that counts, in ms, and its nodes, from the events of a profile (times in us)."""
    whole = sorted((event["ts"], event["dur"]) for event in events if event.get("name") == "model_run")[warm_up:]
    starts = [start for start, _ in whole]
    nodes: dict[tuple[str, str, str], Node] = {}
    for event, own in own_times(events):
        run = bisect_right(starts, event["ts"]) - 1
        if run < 0:
            continue  # of the warm-up
        arguments = event["args"]
        key = (event["name"], arguments["op_name"], str(arguments.get("node_index", "")))
        if key not in nodes:
            types = [kind for described in arguments.get("input_type_shape", ()) for kind in described]
            nodes[key] = Node(event["name"][: -len(KERNEL)], arguments["op_name"], types, len(whole))
        nodes[key].times[run] += own
        nodes[key].calls += 1
    return [duration / 1e3 for _, duration in whole], list(nodes.values())


def run_profiled(run: Callable[[], Any], clock: Callable[[], float] = time.monotonic) -> None:
    """Run to warm up, then up to 30 times; where that would take more than 10 s, at least 5 times."""
    for _ in range(WARM_UP_RUNS):
        run()
    end = clock() + LONGEST_S
    for done in range(MOST_RUNS):
        if done >= FEWEST_RUNS and clock() > end:
            return
        run()


def read_profile(session: Any) -> list[dict[str, Any]]:
    """End the session's profile, and return its events; the file is removed."""
    path = Path(session.end_profiling())
    try:
        events: list[dict[str, Any]] = json.loads(path.read_bytes().decode("utf-8", errors="replace"))
    finally:
        path.unlink()
    return events


def measure(job: dict[str, Any], runner: Any) -> dict[str, Any]:
    """Do the job: check, import, load, run under the profiler, and sum up what it wrote."""
    runner.check_sha256(job["model"], job["sha256"])
    runtime = runner.import_runtime()
    session = runner.open_session(
        runtime, job["model"], job["threads"], job.get("session"), profile=str(Path.cwd() / "profile")
    )
    feeds = runner.make_feeds(session, job)
    try:
        run_profiled(lambda: session.run(None, feeds))
    except Exception as error:
        raise runner.refusal(error, "the model loads but cannot run") from error
    finally:
        events = read_profile(session)
    runs_ms, nodes = gather(events, WARM_UP_RUNS)
    return {
        "schema": runner.SCHEMA,
        "python": platform.python_version(),
        "onnxruntime": runtime.__version__,
        "runs": len(runs_ms),
        "run_ms": runs_ms,
        "nodes": [
            {
                "name": node.name,
                "operator": node.operator,
                "types": node.types,
                "calls": node.calls / len(runs_ms),
                "time_us": node.times,
            }
            for node in nodes
        ],
        "cpu_s": time.process_time(),
    }


if __name__ == "__main__":
    the_runner = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("runner.py"))))
    sys.exit(the_runner.main(*sys.argv[1:], work=lambda job: measure(job, the_runner)))
