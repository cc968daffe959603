from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from standalone import imports_beyond_the_standard_library

from edgekd.drivers import agent

SOURCE = Path(agent.__file__)


def ask(*words: str | Path, data: bytes = b"") -> tuple[int, dict[str, Any]]:
    ran = subprocess.run([sys.executable, SOURCE, *words], input=data, capture_output=True, check=False)
    assert ran.stderr == b""
    return ran.returncode, json.loads(ran.stdout.splitlines()[0])


def test_it_is_python_3_9_and_needs_the_standard_library_alone() -> None:
    assert imports_beyond_the_standard_library(SOURCE) == set()


def test_an_old_python_is_refused(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    monkeypatch.setattr(agent, "OLDEST_PYTHON", (99, 0))
    assert agent.main("snapshot") == 1
    assert b"is too old, 3.9 or newer is needed" in capfdbinary.readouterr().out


def test_a_file_arrives_whole_or_not_at_all(tmp_path: Path) -> None:
    place, data = tmp_path / "new" / "file", b"content"
    sha256 = hashlib.sha256(data).hexdigest()
    for size, digest, sent in (("7", sha256, data[:3]), ("8", sha256, data), ("7", "0" * 64, data)):
        status, content = ask("receive", place, size, digest, data=sent)
        assert (status, content["error"]["kind"]) == (1, "damaged")
        assert list(place.parent.iterdir()) == []
    assert ask("receive", place, "7", sha256, data=data) == (0, {"path": str(place)})
    assert place.read_bytes() == data
    ran = subprocess.run([sys.executable, SOURCE, "send", place], capture_output=True, check=True)
    head, _, rest = ran.stdout.partition(b"\n")
    assert json.loads(head) == {"size": 7, "sha256": sha256}
    assert rest == data
    assert ask("send", tmp_path / "absent")[1]["error"]["kind"] == "missing"


def test_wheels_are_unpacked_once_and_whole(tmp_path: Path) -> None:
    wheel, place = tmp_path / "a.whl", tmp_path / "packages"
    wheel.write_bytes(b"no zip")
    ran = subprocess.run([sys.executable, SOURCE, "unpack", place, wheel], capture_output=True, check=False)
    assert ran.returncode == 1
    assert list(tmp_path.iterdir()) == [wheel]
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a/b.py", "1")
    for _ in range(2):  # the answer to the first may be lost
        assert ask("unpack", place, wheel)[0] == 0
    assert (place / "a" / "b.py").read_text() == "1"
    assert list(tmp_path.iterdir()) == [place]


def session(tmp_path: Path, name: str = "session-1") -> Path:
    (tmp_path / name).mkdir()
    status, content = ask("open", tmp_path / name)
    assert (status, content["session"]) == (0, str(tmp_path / name))
    return tmp_path / name


def started(tmp_path: Path, folder: Path, program: str) -> Path:
    script = tmp_path / "script.py"
    script.write_text(program)
    run = folder / "runs" / "1"
    for _ in range(2):  # asked for twice, started once
        assert ask("start", run, folder / "scratch", "", script) == (0, {})
    return run


def test_a_run_has_a_heartbeat_and_an_end_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = session(tmp_path)
    run = folder / "runs" / "1"
    run.mkdir()
    script = tmp_path / "script.py"
    script.write_text("import time\ntime.sleep(0.5)\nraise SystemExit(3)")
    monkeypatch.setattr(agent, "HEARTBEAT_S", 0.1)
    agent.supervise(str(run), str(folder / "scratch"), str(script))
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [events[0]["event"], events[1]["event"], events[-1]["event"]] == ["start", "heartbeat", "end"]
    assert events[-1]["status"] == 3
    if sys.platform == "linux":
        assert events[1]["VmRSS"] > 0
        assert events[1]["MemAvailable"] > 0


def test_waiting_ends_with_the_run_or_the_time(tmp_path: Path) -> None:
    folder = session(tmp_path)
    go = folder / "scratch" / "go"
    go.touch()
    run = started(tmp_path, folder, "import time\nwhile not open('go').read(): time.sleep(0.02)\nprint('bye')")
    assert not ask("wait", run, "0.1")[1]["over"]
    go.write_text("1")
    _, state = ask("wait", run, "30")
    assert (state["over"], state["last"]["event"], state["log"]) == (True, "end", "bye")
    assert ask("wait", run, "30")[1] == state


def test_closing_kills_and_removes(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    folder = session(base)
    run = started(tmp_path, folder, "import time\ntime.sleep(60)")
    assert agent.running(folder)
    assert ask("close", folder) == (0, {"left": False})
    assert not base.exists()
    assert not run.exists()
    assert ask("close", folder) == (0, {"left": False})


def test_forgotten_sessions_are_removed_unless_they_run(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    idle, busy, young = (session(base, f"session-{name}") for name in ("idle", "busy", "young"))
    started(tmp_path, busy, "import time\ntime.sleep(60)")
    (base / "packages-cp39").mkdir()
    old = time.time() - agent.STALE_S - 60
    for folder in (idle, busy):
        os.utime(folder, (old, old))
    session(base, "session-new")
    assert sorted(path.name for path in base.iterdir()) == [
        *("packages-cp39", "session-busy", "session-new", "session-young"),
    ]
    assert young.exists()
    ask("close", busy)
