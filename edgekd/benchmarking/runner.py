"""Measure one model in this fresh process: latency in ms, memory in bytes by phase.

    python runner.py JOB.json RESULT.json

This file is pushed to boards as it is: Python >= 3.9, the standard library, numpy and onnxruntime; nothing of
edgekd. One process is one measurement, because memory arenas and library pages carry over to the next one.

JOB: `model` (path), `sha256` (hex, checked before the model is loaded), `threads` (intra-op; inter-op is 1),
`data` (path of an .npz, or null), `dims` (sizes of dynamic axes by name; others are 1), `seed`, `runs` and
`duration_s` (timed runs go on until both are reached), `rehearsal` (no timed runs: the first one and, if that key is
there, `more_runs`), `journal` (name of a file to which the timed runs are appended as JSON lines while they go on, or
null), and optionally `session`: `arena`, `spinning` (whether the session keeps freed tensors for the next ones, and
whether its idle threads spin; both true by default) and `optimization` (`all` by default, `extended`, `basic` or
`none`).

RESULT: the figures, or `{"error": {"kind": "model" | "data" | "device", "message": ...}}` and exit status 1.

Memory is resident memory. `interpreter`, `import` and `session` are what is held at the end of that phase;
`session_peak`, `first_run` and `steady` are the highest during session creation, the first run and the timed
runs; `peak` is the highest of all. What this system cannot measure is null and named in `unavailable`.
`resident_bytes` says what is resident after the timed runs: `anonymous` (the process's own), `file` (libraries and
mapped files), and `pss`: all of it, what is shared with other processes divided among them.
"""

from __future__ import annotations

import array
import gc
import hashlib
import json
import math
import os
import platform
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCHEMA = "edgekd.runner/1"
INPUT_DTYPES = (
    *("bool", "float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}
PHASES = ("interpreter", "import", "session_peak", "session", "first_run", "steady", "peak")

# The warm-up ends when the medians of two windows in a row differ by at most 5 %, or after 3 s.
WINDOW_RUNS = 5
WINDOW_S = 0.1
STEADY_TOLERANCE = 0.05
WARM_UP_CAP_S = 3.0
JOURNAL_EVERY_S = 1.0
MOST_OF_MEMORY = 0.25  # for one input: making it up takes three times its size, and the model needs room as well

_PIECE_BYTES = 1 << 20


class JobError(Exception):
    """Something the user can mend; `kind` says whose fault it is: model, data or device."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class MemoryMeter:
    """Resident memory of this process by phase, in bytes; None where the system does not tell."""

    def __init__(self) -> None:
        self.phases: dict[str, int | None] = dict.fromkeys(PHASES)

    def settled(self, phase: str) -> None:
        """Record what is resident now."""
        self.phases[phase] = read_memory()[0]
        self._raise_overall()

    @contextmanager
    def highest(self, phase: str) -> Iterator[None]:
        """Record the highest resident memory while the block runs.

        Where the peak cannot be reset it is the process's so far: it belongs to this phase only if it rose in
        it, and is unknown otherwise.
        """
        self._raise_overall()
        was_reset = reset_peak()
        before = read_memory()[1]
        yield
        after = read_memory()[1]
        if after is not None and before is not None and (was_reset or after > before):
            self.phases[phase] = after
        self._raise_overall()

    def unavailable(self) -> list[str]:
        """Return the phases that could not be measured."""
        return [phase for phase in PHASES if self.phases[phase] is None]

    def _raise_overall(self) -> None:
        peak = read_memory()[1]
        if peak is not None:
            self.phases["peak"] = max(peak, self.phases["peak"] or 0)


def read_memory() -> tuple[int | None, int | None]:
    """Return this process's resident memory now and its peak, in bytes."""
    if sys.platform == "linux":
        return _read_proc_status()
    elif sys.platform == "darwin":
        import resource

        return None, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    elif sys.platform == "win32":
        return _read_working_set()
    else:
        return None, None


def reset_peak() -> bool:
    """Bring the peak down to what is resident now; False where the system cannot (see proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def read_resident(process: str = "/proc/self") -> dict[str, int | None]:
    """Return what is resident, in bytes, by kind; see proc(5), status and smaps_rollup."""
    status = _read_kilobytes(process + "/status")
    return {
        "anonymous": status.get("RssAnon"),
        "file": status.get("RssFile"),
        "pss": _read_kilobytes(process + "/smaps_rollup").get("Pss"),
    }


def _read_proc_status() -> tuple[int | None, int | None]:
    found = _read_kilobytes("/proc/self/status")
    return found.get("VmRSS"), found.get("VmHWM")


def _read_kilobytes(path: str) -> dict[str, int]:
    """Return the lines of a file of /proc that give kilobytes, in bytes by name; none where it cannot be read."""
    try:
        text = Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    fields = (line.partition(":") for line in text.splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, _, value in fields}


if sys.platform == "win32":

    def _read_working_set() -> tuple[int | None, int | None]:
        import ctypes
        from ctypes import wintypes

        class Counters(ctypes.Structure):
            """PROCESS_MEMORY_COUNTERS of psapi.h."""

            _fields_ = (
                ("cb", wintypes.DWORD),
                ("PageFaultCount", wintypes.DWORD),
                ("PeakWorkingSetSize", ctypes.c_size_t),
                ("WorkingSetSize", ctypes.c_size_t),
                ("QuotaPeakPagedPoolUsage", ctypes.c_size_t),
                ("QuotaPagedPoolUsage", ctypes.c_size_t),
                ("QuotaPeakNonPagedPoolUsage", ctypes.c_size_t),
                ("QuotaNonPagedPoolUsage", ctypes.c_size_t),
                ("PagefileUsage", ctypes.c_size_t),
                ("PeakPagefileUsage", ctypes.c_size_t),
            )

        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.GetCurrentProcess.restype = wintypes.HANDLE
        kernel32.K32GetProcessMemoryInfo.argtypes = (wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD)
        counters = Counters(cb=ctypes.sizeof(Counters))
        if not kernel32.K32GetProcessMemoryInfo(
            kernel32.GetCurrentProcess(), ctypes.byref(counters), ctypes.sizeof(counters)
        ):
            return None, None
        return counters.WorkingSetSize, counters.PeakWorkingSetSize


def check_sha256(path: str, expected: str) -> None:
    """Refuse a model file that is not the one the job speaks of."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            for piece in iter(lambda: stream.read(_PIECE_BYTES), b""):
                digest.update(piece)
    except OSError as error:
        raise JobError("model", f"cannot be read: {error.strerror or error}") from error
    if digest.hexdigest() != expected:
        raise JobError(
            "model", f"the file is not the one to measure: expected sha256 {expected}, found {digest.hexdigest()}"
        )


def import_runtime() -> Any:
    """Import numpy and onnxruntime, telemetry off, and return the latter."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # works only before the first import
    try:
        import numpy  # noqa: F401 - so that its pages count as the import's
        import onnxruntime
    except ImportError as error:
        raise JobError(
            "device", f"{sys.executable} (Python {platform.python_version()}) cannot import a package: {error}"
        ) from error
    return onnxruntime


def open_session(
    runtime: Any, model: str, threads: int, session: dict[str, Any] | None = None, profile: str | None = None
) -> Any:
    """Create the session: CPU, `threads` intra-op threads (0: onnxruntime's own number), one inter-op thread.

    `session` is the job's; `profile` the beginning of the name of a file that onnxruntime's profiler writes.
    """
    chosen = {"arena": True, "spinning": True, "optimization": "all", **(session or {})}
    options = runtime.SessionOptions()
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    options.enable_cpu_mem_arena = chosen["arena"]
    if not chosen["spinning"]:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, LEVELS[chosen["optimization"]])
    options.log_severity_level = 4  # its exceptions say the same
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise refusal(error, f"onnxruntime {runtime.__version__} cannot load this model") from error


def refusal(error: Exception, what: str) -> JobError:
    """Return an exception of onnxruntime as the model's fault, or the device's where memory ran out."""
    text = " ".join(str(error).split()) or type(error).__name__
    out_of_memory = isinstance(error, MemoryError) or "bad_alloc" in text or "Failed to allocate memory" in text
    return JobError("device" if out_of_memory else "model", f"{what}: {text}")


def make_feeds(session: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Return an array for each input of the model: from the job's .npz, or made up from the declared types."""
    feeds = {}
    for declared in session.get_inputs():
        shape = [axis if isinstance(axis, int) else job["dims"].get(axis) for axis in declared.shape]
        if job["data"] is None:
            feeds[declared.name] = generate(declared, [1 if axis is None else axis for axis in shape], job["seed"])
        else:
            feeds[declared.name] = read_sample(job["data"], declared, shape)
    return feeds


def input_type(declared: Any) -> Any:
    """Return the numpy dtype of a declared input such as `tensor(float)`."""
    import numpy as np

    kind = declared.type[len("tensor(") : -1] if declared.type.startswith("tensor(") else declared.type
    name = {"float": "float32", "double": "float64"}.get(kind, kind)
    if name not in INPUT_DTYPES:
        raise JobError(
            "model", f"input {declared.name!r} is {declared.type}: only tensors of plain numbers can be measured"
        )
    return np.dtype(name)


def generate(declared: Any, shape: list[int], seed: int) -> Any:
    """Make up an input of `shape`: masks are ones, floats normal, integers 0 or 1 (valid ids everywhere)."""
    import numpy as np

    dtype = input_type(declared)
    size, memory = math.prod(shape) * dtype.itemsize, memory_of_device()
    if memory is not None and size > MOST_OF_MEMORY * memory:
        raise JobError(
            "model",
            f"input {declared.name!r} of shape {shape} would take {size / 1e9:.1f} GB, more than a quarter of the "
            f"{memory / 1e9:.1f} GB of memory here: choose smaller sizes of its axes",
        )
    random = np.random.default_rng(seed)
    try:
        if dtype.kind == "b" or "mask" in declared.name.lower():
            return np.ones(shape, dtype)
        if dtype.kind == "f":
            return random.standard_normal(shape).astype(dtype)
        return random.integers(0, 2, shape).astype(dtype)
    except (MemoryError, ValueError) as error:
        raise JobError("device", f"input {declared.name!r} of shape {shape} is too large: {error}") from error


def memory_of_device() -> int | None:
    """Return how much memory this machine has, in bytes; None where it does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def read_sample(path: str, declared: Any, shape: list[int | None]) -> Any:
    """Return the first rows of the array named like the input, as many as the model takes at once."""
    rows = (shape[0] if shape else None) or 1
    values = read_rows(path, declared.name, rows)
    dtype = input_type(declared)
    fits = values.ndim == len(shape) and all(
        axis is None or values.shape[index] == axis for index, axis in enumerate(shape)
    )
    if not fits:
        raise JobError(
            "data", f"array {declared.name!r} gives {list(values.shape)}, the model takes {list(declared.shape)}"
        )
    if values.dtype.kind != dtype.kind:
        raise JobError("data", f"array {declared.name!r} is {values.dtype}, the model takes {dtype}")
    return values.astype(dtype)


def read_rows(path: str, name: str, rows: int) -> Any:
    """Return the first `rows` rows of an array in an .npz, without reading the rest of it."""
    import zipfile
    import zlib

    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive:
            if name + ".npy" not in archive.namelist():
                raise JobError("data", f"no array named {name!r}; it holds: {', '.join(archive.namelist())}")
            with archive.open(name + ".npy") as stream:
                version = np.lib.format.read_magic(stream)
                if version == (1, 0):
                    shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
                else:
                    shape, by_column, dtype = np.lib.format.read_array_header_2_0(stream)
                if dtype.hasobject or by_column or not shape or shape[0] < rows:
                    raise JobError(
                        "data",
                        f"array {name!r} of {dtype}, {list(shape)}: expected numbers in row-major order with at "
                        f"least {rows} along the first axis",
                    )
                count = rows * int(np.prod(shape[1:], dtype=np.int64))
                return np.frombuffer(stream.read(count * dtype.itemsize), dtype, count).reshape(rows, *shape[1:])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise JobError("data", f"cannot be read as an .npz file: {error}") from error


def warm_up(run: Callable[[], Any]) -> dict[str, Any]:
    """Run until steady: two windows in a row (5 runs and 0.1 s each, at least) whose medians are within 5 %.

    After 3 s it ends whether steady or not, and the result says which.
    """
    clock = time.perf_counter_ns
    opened, runs, earlier = clock(), 0, None
    while True:
        window: list[int] = []
        window_opened = clock()
        while len(window) < WINDOW_RUNS or clock() - window_opened < WINDOW_S * 1e9:
            start = clock()
            run()
            window.append(clock() - start)
            if clock() - opened >= WARM_UP_CAP_S * 1e9:
                return {"runs": runs + len(window), "steady": False}
        runs += len(window)
        median = sorted(window)[len(window) // 2]
        if earlier is not None and abs(median - earlier) <= STEADY_TOLERANCE * earlier:
            return {"runs": runs, "steady": True}
        earlier = median


def time_runs(run: Callable[[], Any], runs: int, duration_s: float, journal: str | None = None) -> array.array[int]:
    """Time single runs, in ns, until there are `runs` of them and `duration_s` have passed.

    Once a second those made since are appended to `journal`: what is left of a process that the system kills.
    """
    clock = time.perf_counter_ns
    samples = array.array("q")  # 8 bytes each: a list of a million would show up in the memory figures
    noted, due = 0, clock() + int(JOURNAL_EVERY_S * 1e9)
    end = clock() + int(duration_s * 1e9)
    while len(samples) < runs or clock() < end:
        start = clock()
        run()
        samples.append(clock() - start)
        if journal is not None and clock() >= due:
            append_line(journal, {"samples_ms": [nanoseconds / 1e6 for nanoseconds in samples[noted:]]})
            run()  # writing has cooled the caches
            noted, due = len(samples), clock() + int(JOURNAL_EVERY_S * 1e9)
    if journal is not None and len(samples) > noted:
        append_line(journal, {"samples_ms": [nanoseconds / 1e6 for nanoseconds in samples[noted:]]})
    return samples


def append_line(path: str, content: dict[str, Any]) -> None:
    """Append one line of JSON to a file."""
    with Path(path).open("a", encoding="ascii") as stream:
        stream.write(json.dumps(content) + "\n")


def time_once(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `call` gives and how long it took, in ms."""
    start = time.perf_counter_ns()
    value = call()
    return value, (time.perf_counter_ns() - start) / 1e6


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Do the job: check, import, load, run once, warm up, time. See the head of this file for the keys."""
    memory = MemoryMeter()
    memory.settled("interpreter")
    check_sha256(job["model"], job["sha256"])
    runtime = import_runtime()
    memory.settled("import")
    with memory.highest("session_peak"):
        session, load_ms = time_once(lambda: open_session(runtime, job["model"], job["threads"], job.get("session")))
    memory.settled("session")
    feeds = make_feeds(session, job)

    def run() -> Any:
        return session.run(None, feeds)

    result = {
        "schema": SCHEMA,
        "python": platform.python_version(),
        "onnxruntime": runtime.__version__,
        "inputs": {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in feeds.items()},
        "dynamic_axes": sorted({axis for i in session.get_inputs() for axis in i.shape if isinstance(axis, str)}),
        "load_ms": load_ms,
    }
    try:
        with memory.highest("first_run"):
            _, result["first_run_ms"] = time_once(run)
        if job["rehearsal"]:
            for _ in range(job.get("more_runs", 0)):
                run()
        else:
            gc.collect()
            gc.disable()
            result["warm_up"] = warm_up(run)
            with memory.highest("steady"):
                run()  # reading the memory has cooled the caches
                samples = time_runs(run, job["runs"], job["duration_s"], job["journal"])
            result["samples_ms"] = [nanoseconds / 1e6 for nanoseconds in samples]
    except Exception as error:
        raise refusal(error, "the model loads but cannot run") from error
    result["memory_bytes"] = memory.phases
    result["resident_bytes"] = read_resident()
    result["unavailable"] = memory.unavailable()
    result["cpu_s"] = time.process_time()
    return result


def write_result(path: str, result: dict[str, Any]) -> None:
    """Write the result under a temporary name, then move it: a killed runner leaves no half result."""
    temporary = Path(path + ".partial")
    temporary.write_text(json.dumps(result, allow_nan=False), encoding="utf-8")
    temporary.replace(path)


def main(job_path: str, result_path: str, work: Callable[[dict[str, Any]], dict[str, Any]] = measure) -> int:
    """Do the job in one file, write the result to another, and return the exit status."""
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    try:
        result, status = work(job), 0
    except JobError as error:
        result, status = {"schema": SCHEMA, "error": {"kind": error.kind, "message": str(error)}}, 1
    except MemoryError as error:
        message = f"out of memory: {error}"
        result, status = {"schema": SCHEMA, "error": {"kind": "device", "message": message}}, 1
    try:
        write_result(result_path, result)
    except OSError as error:
        sys.exit(f"cannot write the result: {error.strerror or error}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
