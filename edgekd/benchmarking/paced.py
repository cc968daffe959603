"""Give one model inputs at a fixed pace in this fresh process, as a camera does, and time its answers.

    python paced.py JOB.json RESULT.json

This file is pushed to boards as it is, beside `runner.py`: Python >= 3.9, the standard library and what the runner
takes; nothing of edgekd.

JOB: what a job of `runner.py` holds (its head says what), and `rate_per_s`; `runs` is the number of answers.

Input number n is due n / rate after the start, whatever happened before, so the schedule does not drift. Between
inputs this process sleeps. An input that comes in while an earlier one is being answered is skipped, as by an app
that drops frames while it is busy.

RESULT: `latency_ms` from when an input was due to its answer, `run_ms` of the inference alone, both in the order of
time; `late` (answers that came after the next input was due), `skipped`, `paced_cpu_s` and `paced_s` (CPU and wall
time of the paced stretch), `cpu_s` of the whole process; or an error, as of `runner.py`.
"""

from __future__ import annotations

import array
import gc
import platform
import runpy
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

WARM_UP_S = 1.0
WARM_UP_RUNS = 5


class Paced:
    """What happened at a pace: times in ns, in the order of time; numbers of inputs; CPU and wall time in s."""

    def __init__(self) -> None:
        self.latencies = array.array("q")
        self.runs = array.array("q")
        self.late = 0
        self.skipped = 0
        self.cpu_s = 0.0
        self.wall_s = 0.0


def pace(
    run: Callable[[], Any],
    *,
    period_ns: int,
    answers: int,
    clock: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
    cpu_s: Callable[[], float] = time.process_time,
) -> Paced:
    """Run on inputs that are due every `period_ns`, until there are so many answers."""
    found = Paced()
    start, cpu_before, number = clock(), cpu_s(), 1
    while len(found.latencies) < answers:
        due = start + number * period_ns
        now = clock()
        while now < due:  # a sleep may end early
            sleep((due - now) / 1e9)
            now = clock()
        run()
        end = clock()
        found.runs.append(end - now)
        found.latencies.append(end - due)
        found.late += end > due + period_ns
        following = max(number + 1, -((start - end) // period_ns))  # the first that is not due yet
        found.skipped += following - number - 1
        number = following
    found.cpu_s, found.wall_s = cpu_s() - cpu_before, (clock() - start) / 1e9
    return found


def measure(job: dict[str, Any], runner: Any) -> dict[str, Any]:
    """Do the job: check, import, load, warm up at the pace, and pace."""
    runner.check_sha256(job["model"], job["sha256"])
    runtime = runner.import_runtime()
    session = runner.open_session(runtime, job["model"], job["threads"], job.get("session"))
    feeds = runner.make_feeds(session, job)
    period_ns = round(1e9 / job["rate_per_s"])

    def run() -> Any:
        return session.run(None, feeds)

    try:
        run()
        gc.collect()
        gc.disable()
        pace(run, period_ns=period_ns, answers=max(WARM_UP_RUNS, round(WARM_UP_S * 1e9 / period_ns)))
        found = pace(run, period_ns=period_ns, answers=job["runs"])
    except Exception as error:
        raise runner.refusal(error, "the model loads but cannot run") from error
    return {
        "schema": runner.SCHEMA,
        "python": platform.python_version(),
        "onnxruntime": runtime.__version__,
        "inputs": {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in feeds.items()},
        "latency_ms": [nanoseconds / 1e6 for nanoseconds in found.latencies],
        "run_ms": [nanoseconds / 1e6 for nanoseconds in found.runs],
        "late": found.late,
        "skipped": found.skipped,
        "paced_cpu_s": found.cpu_s,
        "paced_s": found.wall_s,
        "cpu_s": time.process_time(),
    }


if __name__ == "__main__":
    the_runner = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("runner.py"))))
    sys.exit(the_runner.main(sys.argv[1], sys.argv[2], work=lambda job: measure(job, the_runner)))
