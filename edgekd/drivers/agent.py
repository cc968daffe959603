"""What edgekd does on a board; and how any machine, this one too, says what it is.

    python agent.py OPERATION ARGUMENT...

This file is pushed to boards as it is: Python >= 3.9 and the standard library alone; nothing of edgekd. An operation
answers with one line of JSON on standard output: its result, or `{"error": {"kind": ..., "message": ...}}` and exit
status 1. Every operation may be asked for again when its answer was lost.

A run is a folder. It is over when nobody holds the lock on its file `lock`, which also ends when the system kills
the supervisor; it ended well when `events.jsonl` then holds an end mark.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

OLDEST_PYTHON = (3, 9)
HEARTBEAT_S = 10.0
STALE_S = 24 * 3600.0  # sessions that nobody came back for
LOG_TAIL_BYTES = 2000
PIECE_BYTES = 1 << 20
# What facts are made of, below the root of the file system. See proc(5) and the kernel's ABI documents.
FILES = (
    "proc/cpuinfo",
    "proc/stat",
    "proc/self/cgroup",
    "proc/device-tree/model",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq",
    "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count",
    "sys/devices/platform/soc*/*firmware/get_throttled",
    "sys/class/thermal/thermal_zone*/type",
    "sys/class/thermal/thermal_zone*/temp",
    "sys/class/thermal/cooling_device*/type",
    "sys/class/thermal/cooling_device*/cur_state",
)
# Of a control group, both versions; see the kernel's admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/.
GROUP_FILES = (
    *("cpu.max", "cpu.stat", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
    *("memory.max", "memory.limit_in_bytes"),
)
VCGENCMD_S = 5.0
PACKAGES = ("numpy", "onnxruntime")


class RefusalError(Exception):
    """An operation that cannot be done; `kind` is "space", "missing", "damaged" or "other"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def snapshot(root: str = "/") -> dict[str, Any]:
    """Return this machine's raw facts at this moment, as JSON values; `root` is where the files are looked for."""
    base = Path(root)
    paths = [path for pattern in FILES for path in base.glob(pattern)] + group_files(base)
    texts = {path.relative_to(base).as_posix(): read(path) for path in paths}
    return {
        "machine": platform.machine(),
        "logical_cores": os.cpu_count(),
        "load_average": load_average(),
        "ticks_per_s": os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100,
        "files": {name: text for name, text in sorted(texts.items()) if text is not None},
        "processes": processes("\n".join(read(path) or "" for path in base.glob("proc/[0-9]*/stat"))),
        "vcgencmd": vcgencmd() if root == "/" else None,
    }


def group_files(base: Path) -> list[Path]:
    """Return the files that limit this process's control groups and those around them; `base` holds proc and sys."""
    mounted, own, found = base / "sys/fs/cgroup", base / "proc/self/cgroup", []
    for line in (read(own) or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        top = mounted / controllers if controllers else mounted
        group = top / path.lstrip("/")
        while True:
            found += [group / name for name in GROUP_FILES if (group / name).is_file()]
            if group == top or top not in group.parents:
                break
            group = group.parent
    return found


def processes(text: str) -> dict[str, list[Any]]:
    """Return name and CPU time in ticks of every process, by number and start, from lines of /proc/PID/stat."""
    found = {}
    for line in text.splitlines():
        number, opening, rest = line.partition(" (")
        name, closing, fields = rest.rpartition(") ")  # a name may hold brackets
        values = fields.split()
        if opening and closing and len(values) > 19:
            found[f"{number}:{values[19]}"] = [name, int(values[11]) + int(values[12])]
    return found


def vcgencmd() -> str | None:
    """Return what a Raspberry Pi's own program says of throttling, or None where there is no such program."""
    program = shutil.which("vcgencmd")
    if program is None:
        return None
    try:
        command = [program, "get_throttled"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=VCGENCMD_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None


def load_average() -> float | None:
    """Return the mean number of running tasks over the last minute, or None where nobody counts them."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows has none
        return None


def read(path: Path) -> str | None:
    """Return a file's text, or None if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def open_session(session: str) -> dict[str, Any]:
    """Make a session's folders, remove sessions that were forgotten, and say which Python this is."""
    folder = Path(session).absolute()
    for other in folder.parent.glob("session-*"):
        if other != folder and time.time() - other.stat().st_mtime > STALE_S and not running(other):
            shutil.rmtree(other, ignore_errors=True)
    for name in ("files", "scratch", "runs"):
        (folder / name).mkdir(exist_ok=True)
    library, version = platform.libc_ver()
    return {
        "session": str(folder),
        "python": list(sys.version_info[:2]),
        "machine": platform.machine(),
        "glibc_minor": int(version.split(".")[1]) if library == "glibc" else None,
        "has_packages": all(has_package(name) for name in PACKAGES),
    }


def has_package(name: str) -> bool:
    """Return whether a package is installed."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def receive(name: str, size: str, sha256: str) -> dict[str, Any]:
    """Write standard input to a file, whole or not at all."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    digest, found = hashlib.sha256(), 0
    try:
        with partial.open("wb") as stream:
            for piece in iter(lambda: sys.stdin.buffer.read(PIECE_BYTES), b""):
                stream.write(piece)
                digest.update(piece)
                found += len(piece)
        if found != int(size) or digest.hexdigest() != sha256:
            raise RefusalError("damaged", f"{path}: {found} of {size} bytes arrived")
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()
    return {"path": str(path)}


def send(name: str) -> None:
    """Answer with a file's size and sha256 in a line, then with the file itself."""
    path = Path(name)
    if not path.is_file():
        raise RefusalError("missing", f"there is no file {path.name}")
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(PIECE_BYTES), b""):
            digest.update(piece)
        answer({"size": path.stat().st_size, "sha256": digest.hexdigest()})
        stream.seek(0)
        shutil.copyfileobj(stream, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def unpack(folder: str, *wheels: str) -> dict[str, Any]:
    """Unpack wheels into a folder, whole or not at all, and remove them."""
    place = Path(folder)
    partial = place.with_name(f"{place.name}.partial-{os.getpid()}")
    if not place.is_dir():
        try:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(partial)
            partial.replace(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    for wheel in wheels:
        with suppress(OSError):
            Path(wheel).unlink()
    return {"path": str(place)}


def move(folder: str, place: str) -> dict[str, Any]:
    """Give a folder another name, unless there is one of that name."""
    if not Path(place).is_dir():
        Path(folder).replace(place)
    return {"path": place}


def exists(folder: str) -> dict[str, Any]:
    """Say whether a folder is there."""
    return {"exists": Path(folder).is_dir()}


def start(run: str, work: str, packages: str, *command: str) -> dict[str, Any]:
    """Start a Python script that goes on when the connection is gone; nothing if this run was started before."""
    import fcntl

    folder = Path(run)
    try:
        folder.mkdir()
    except FileExistsError:
        return {}
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    if packages:
        environment["PYTHONPATH"] = packages
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (folder / "supervisor.txt").open("wb") as said:
            supervisor = subprocess.Popen(  # noqa: S603
                [sys.executable, __file__, "supervise", run, work, *command],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=environment,
                pass_fds=[lock.fileno()],  # the lock lives as long as the supervisor
                start_new_session=True,
            )
    (folder / "pid").write_text(str(supervisor.pid), encoding="ascii")
    return {}


def supervise(run: str, work: str, *command: str) -> dict[str, Any]:
    """Run a script to its end, with a heartbeat; the rest of the time this process sleeps."""
    folder, began = Path(run), time.monotonic()
    with (folder / "events.jsonl").open("a", encoding="ascii") as events, (folder / "log.txt").open("wb") as log:
        child = subprocess.Popen(  # noqa: S603
            [sys.executable, *command], cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )

        def note(**event: Any) -> None:
            events.write(json.dumps({"seconds": round(time.monotonic() - began, 1), **event}) + "\n")
            events.flush()

        signal.signal(signal.SIGALRM, lambda *_: note(event="heartbeat", **memory(child.pid)))
        signal.setitimer(signal.ITIMER_REAL, HEARTBEAT_S, HEARTBEAT_S)
        note(event="start", pid=child.pid)
        status = child.wait()
        signal.setitimer(signal.ITIMER_REAL, 0)
        note(event="end", status=status)
    return {}


def memory(pid: int) -> dict[str, int]:
    """Return the kilobytes of memory that a process holds and that the machine still has."""
    found = {}
    for key, path in (("VmRSS", f"/proc/{pid}/status"), ("MemAvailable", "/proc/meminfo")):
        for line in (read(Path(path)) or "").splitlines():
            if line.startswith(key + ":"):
                found[key] = int(line.split()[1])
    return found


def wait(run: str, seconds: str) -> dict[str, Any]:
    """Sleep until a run is over, at most so long, and say how it stands."""
    import fcntl

    folder = Path(run)
    over = True
    with (folder / "lock").open("rb") as lock:
        signal.signal(signal.SIGALRM, _wake)
        signal.setitimer(signal.ITIMER_REAL, float(seconds))
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)  # sleeps in the kernel: a measurement is not disturbed
        except InterruptedError:
            over = False
        signal.setitimer(signal.ITIMER_REAL, 0)
    events = [json.loads(line) for line in (read(folder / "events.jsonl") or "").splitlines() if line.endswith("}")]
    log = folder / ("log.txt" if events else "supervisor.txt")
    return {"over": over, "last": events[-1] if events else None, "log": tail(log)}


def _wake(*_: Any) -> None:
    raise InterruptedError


def tail(path: Path) -> str:
    """Return the end of a log."""
    return (read(path) or "")[-LOG_TAIL_BYTES:].strip()


def running(session: Path) -> bool:
    """Return whether a run of this session goes on."""
    return any(is_locked(lock) for lock in session.glob("runs/*/lock"))


def is_locked(path: Path) -> bool:
    """Return whether somebody holds the lock on a file."""
    import fcntl  # Unix; this module is imported on every system

    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def close_session(session: str) -> dict[str, Any]:
    """Stop what still runs and remove a session's folder."""
    folder = Path(session)
    for lock in folder.glob("runs/*/lock"):
        pid = read(lock.with_name("pid"))
        if pid and is_locked(lock):
            with suppress(OSError):
                os.killpg(int(pid), signal.SIGKILL)
    deadline = time.monotonic() + 5
    while running(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()  # unless something is kept there
    return {"left": folder.exists()}


def answer(content: dict[str, Any]) -> None:
    """Write one line of JSON."""
    sys.stdout.buffer.write(json.dumps(content).encode() + b"\n")
    sys.stdout.buffer.flush()


OPERATIONS: dict[str, Callable[..., dict[str, Any] | None]] = {
    "snapshot": snapshot,
    "open": open_session,
    "receive": receive,
    "send": send,
    "unpack": unpack,
    "move": move,
    "exists": exists,
    "start": start,
    "supervise": supervise,
    "wait": wait,
    "close": close_session,
}


def main(operation: str, *arguments: str) -> int:
    """Do one operation, answer, and return the exit status."""
    if sys.version_info < OLDEST_PYTHON:
        message = f"Python {platform.python_version()} is too old, 3.9 or newer is needed"
        answer({"error": {"kind": "other", "message": message}})
        return 1
    try:
        content = OPERATIONS[operation](*arguments)
    except RefusalError as error:
        answer({"error": {"kind": error.kind, "message": str(error)}})
        return 1
    except OSError as error:
        kind = "space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "other"
        answer({"error": {"kind": kind, "message": f"{error.filename or operation}: {error.strerror or error}"}})
        return 1
    if content is not None:
        answer(content)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
