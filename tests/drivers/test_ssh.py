from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from edgekd.benchmarking import blocks
from edgekd.benchmarking.bench import bench
from edgekd.benchmarking.results import read_result
from edgekd.benchmarking.shipping import ship_model
from edgekd.cli import main
from edgekd.devices import load_profile
from edgekd.drivers import connection, open_driver
from edgekd.errors import DeviceError, ModelError
from edgekd.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Board

    from edgekd.drivers import Driver

pytestmark = pytest.mark.xdist_group("ssh")


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="e") as folder:  # short: the path of a socket has an end
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield
        assert list(Path(folder).iterdir()) == []
        monkeypatch.undo()


@pytest.fixture
def driver(board: Board) -> Iterator[Driver]:
    with open_driver(load_profile("board")) as driver:
        yield driver


@pytest.fixture
def net(tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto]) -> Path:
    onnx.save(make_conv_net(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def write(tmp_path: Path, program: str, name: str = "script.py") -> Path:
    (tmp_path / name).write_text(program)
    return tmp_path / name


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_script_runs_in_the_private_folder(tmp_path: Path, board: Board, driver: Driver) -> None:
    script = write(
        tmp_path,
        "import os, sys\nprint(sys.argv[1:], os.environ['ORT_DISABLE_TELEMETRY'])\n"
        "open('out $x.txt', 'w').write('done')\nsys.exit(3)",
        "-it's; `id` $(touch pwned).py",
    )
    finished = driver.run(driver.push(script), ["a b", "$HOME", "`id`", "'; touch pwned; '", "", "-x", "a\nb"])
    expected = "['a b', '$HOME', '`id`', \"'; touch pwned; '\", '', '-x', 'a\\nb'] 1"
    assert (finished.exit_code, finished.log) == (3, expected)
    driver.pull("out $x.txt", tmp_path / "fetched.txt")
    assert (tmp_path / "fetched.txt").read_text() == "done"
    with pytest.raises(DeviceError, match=r"device board: there is no file absent\.txt"):
        driver.pull("absent.txt", tmp_path / "absent.txt")
    assert not (tmp_path / "absent.txt").exists()
    (session,) = board.sessions()
    assert (session.stat().st_mode & 0o777) == 0o700
    assert not list(session.rglob("pwned"))


def test_a_folder_below_the_home_folder(tmp_path: Path, board: Board) -> None:
    home, name = Path(pwd.getpwuid(os.getuid()).pw_dir), f"edgekd-test-{os.getpid()}"
    board.profile(folder=f"~/{name}/it's")
    with open_driver(load_profile("board")) as driver:
        place = Path(driver.push(write(tmp_path, "print(1)")))
        assert place.parents[4] == home / name
        assert driver.run(str(place), []).log == "1"
    (home / name).rmdir()


@pytest.mark.parametrize("name", ["with a 100% space", "long" * 30])
def test_any_folder_for_temporary_files(
    tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    with open_driver(load_profile("board")) as driver:
        assert driver.run(driver.push(write(tmp_path, "print(1)")), []).log == "1"
    assert list((tmp_path / name).iterdir()) == []


def test_a_board_that_greets(tmp_path: Path, board: Board) -> None:
    script = board.root / "python"
    script.write_text(f'#!/bin/sh\necho Welcome\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    board.profile(python=str(script))
    with open_driver(load_profile("board")) as driver:
        assert driver.run(driver.push(write(tmp_path, "open('out', 'w').write('x' * 9)")), []).exit_code == 0
        driver.pull("out", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "x" * 9


def test_facts_of_a_board(driver: Driver) -> None:
    facts = driver.probe()
    assert facts.target in ("x86-avx2", "x86-vnni", "arm64", "arm64-dotprod", "arm64-i8mm")
    assert facts.logical_cores == os.cpu_count()
    assert facts.busy_cpu_s is not None
    assert not driver.emulated


def test_an_unchanged_file_travels_once(tmp_path: Path, board: Board, driver: Driver) -> None:
    big = tmp_path / "big.bin"
    big.write_bytes(os.urandom(3 << 20))
    place = Path(driver.push(big))
    assert place.read_bytes() == big.read_bytes()
    before = place.stat().st_mtime_ns
    assert driver.push(big) == str(place)
    assert place.stat().st_mtime_ns == before
    big.write_bytes(b"other")
    assert Path(driver.push(big)).read_bytes() == b"other"


@pytest.mark.parametrize("server_too", [False, True])
def test_a_dropped_connection_is_resumed(
    tmp_path: Path, board: Board, driver: Driver, monkeypatch: pytest.MonkeyPatch, server_too: bool
) -> None:
    script = write(
        tmp_path,
        "import pathlib, sys, time\npathlib.Path(sys.argv[1]).touch()\ntime.sleep(1.5)\nopen('out', 'w').write('whole')",
    )
    remote, started = driver.push(script), tmp_path / "started"

    def drop() -> None:
        while not started.exists():
            time.sleep(0.02)
        if server_too:  # nobody answers for a while
            os.kill(board.server, signal.SIGSTOP)
        board.drop()
        if server_too:
            time.sleep(0.5)
            os.kill(board.server, signal.SIGCONT)

    dropper = threading.Thread(target=drop)
    dropper.start()
    finished = driver.run(remote, [str(started)])
    dropper.join()
    assert finished.exit_code == 0
    driver.pull("out", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "whole"


def test_a_connection_that_does_not_come_back(tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RECONNECT_S", 1.0)
    config = board.client / "config"
    kept = config.read_text()
    with open_driver(load_profile("board")) as driver:
        script = driver.push(write(tmp_path, "print(1)"))
        config.write_text(kept.replace(f"Port {board.port}", "Port 1"))
        board.drop()
        with pytest.raises(DeviceError, match=r"device board: cannot connect to board: .*Connection refused"):
            driver.run(script, [])
        config.write_text(kept)


@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), 9)", "sys.exit(137)"])
def test_a_killed_script(tmp_path: Path, driver: Driver, ending: str) -> None:
    script = write(tmp_path, f"import os, sys\nprint('last words', flush=True)\n{ending}")
    with pytest.raises(DeviceError, match=r"device board: .*probably ran out of memory; it said: last words"):
        driver.run(driver.push(script), [])


def test_a_run_without_an_end_mark(tmp_path: Path, driver: Driver) -> None:
    script = write(tmp_path, "import os\nos.kill(os.getppid(), 9)")
    with pytest.raises(DeviceError, match=r"device board: the run ended without an end mark .*ran out of memory"):
        driver.run(driver.push(script), [])


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, board: Board) -> None:
    script = write(
        tmp_path,
        "import os, pathlib, sys, time\npathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        f"os.kill({os.getpid()}, {int(signal.SIGUSR1)})\ntime.sleep(60)",
    )

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), open_driver(load_profile("board")) as driver:
            driver.run(driver.push(script), [str(tmp_path / "pid")])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert gone(int((tmp_path / "pid").read_text()))
    assert board.sessions() == []


def limited_python(board: Board, size: int) -> str:
    """A Python that cannot write files beyond a size: a quota."""
    script = board.root / "python"
    script.write_text(f'#!/bin/sh\nexec prlimit --fsize={size} {sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


def test_a_board_without_space(tmp_path: Path, board: Board) -> None:
    board.profile(python=limited_python(board, 1_000_000))
    (tmp_path / "big.bin").write_bytes(bytes(2_000_000))
    with open_driver(load_profile("board")) as driver:
        with pytest.raises(DeviceError, match=r"device board: no space left there: .*name another folder"):
            driver.push(tmp_path / "big.bin")
        (session,) = board.sessions()
        assert not [path for path in session.rglob("*") if path.name.endswith(".partial")]
        script = driver.push(write(tmp_path, "open('out', 'wb').write(bytes(2_000_000))"))
        finished = driver.run(script, [])
        assert finished.exit_code == 1
        assert "File too large" in finished.log


def test_a_board_that_cannot_be_written(board: Board) -> None:
    board.profile(folder="/proc/edgekd")
    with (
        pytest.raises(DeviceError, match="device board: cannot write /proc/edgekd"),
        open_driver(load_profile("board")),
    ):
        pass


def refused(board: Board, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(DeviceError, match=message), open_driver(load_profile("board")):
        pass
    assert time.monotonic() - start < connection.RECONNECT_S / 2  # not tried again


def test_a_wrong_key(board: Board, server: tuple[int, int, Path], capsys: pytest.CaptureFixture[str]) -> None:
    config = board.client / "config"
    config.write_text(config.read_text().replace(f"{server[2]}/user", f"{server[2]}/other"))
    refused(board, r"device board: cannot connect to board: .*Permission denied .*never asks for a password")
    with pytest.raises(SystemExit) as end:
        main(["devices", "probe", "board"])
    assert end.value.code == 5
    assert capsys.readouterr().err.startswith("edgekd: device board: cannot connect to board: ")


def test_a_host_key_that_has_changed(board: Board, server: tuple[int, int, Path]) -> None:
    known = board.client / "known_hosts"
    known.write_text(f"[127.0.0.1]:{board.port} {(server[2] / 'other.pub').read_text()}")
    refused(board, r"its key is another than before: find out why, then: ssh-keygen -R board")
    known.write_text("")
    refused(board, r"its key is not known here yet: connect once by hand: ssh board")
    assert known.read_text() == ""


def test_nobody_answers(board: Board) -> None:
    board.profile(port=1)
    refused(board, r"device board: cannot connect to board: .*Connection refused")
    board.profile(host="no-such-host.invalid")
    refused(board, r"device board: cannot connect to no-such-host\.invalid: ")


def test_no_python_there(board: Board) -> None:
    board.profile(python="/nowhere/it's python")
    refused(board, r"no command \"/nowhere/it's python\" there; it needs Python 3\.9 or newer")


def test_no_ssh_here(board: Board, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    refused(board, "there is no ssh on this machine")


def test_measured_and_evaluated_on_a_board(tmp_path: Path, board: Board, net: Path, images: np.ndarray) -> None:
    data = {"input": images[:20], "labels": np.arange(20) % 4}
    there, here = (evaluate(net, data, reference=net, device=device) for device in ("board", "local"))
    assert there.device == "board"
    assert {**there.to_json(), "device": "local"} == here.to_json()

    np.savez(tmp_path / "data.npz", input=images[:2])
    result = bench([net], device="board", runs=1, data=tmp_path / "data.npz", dims={"batch": 2})
    (measured,) = result.models
    assert result.device.name == "board"
    assert measured.latency_ms is not None
    assert measured.latency_ms.samples == 1
    assert measured.inputs["input"]["shape"] == [2, 3, 8, 8]
    (tmp_path / "b.json").write_text(json.dumps(result.to_json()))
    assert read_result(tmp_path / "b.json") == result


# Ends the runner of a board's folder as soon as it has noted timed runs.
REAPER = """
import os, pathlib, signal, sys, time

def runner():
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split(chr(0))
        except OSError:
            continue
        if len(words) > 1 and words[1].endswith("/runner.py") and sys.argv[1] in words[1]:
            return int(path.parent.name)

while not any(path.stat().st_size for path in pathlib.Path(sys.argv[1]).glob("*/scratch/samples-*.jsonl")):
    time.sleep(0.05)
os.kill(runner(), signal.SIGKILL)
"""


def test_a_run_that_dies_while_it_is_timed(tmp_path: Path, board: Board, net: Path) -> None:
    script = write(tmp_path, REAPER)
    with subprocess.Popen([sys.executable, script, str(board.folder)]) as reaper:
        with pytest.raises(DeviceError, match=r"ran out of memory.* \([1-9][\d,]* timed runs had been made\)"):
            bench([net], device="board", duration_s=60, repeats=2)
        assert reaper.wait(20) == 0


def test_a_python_without_packages(
    tmp_path: Path, board: Board, net: Path, images: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", board.root / "bare"], check=True)
    board.profile(python=str(board.root / "bare" / "bin" / "python"))
    result = evaluate(net, {"input": images[:3]}, reference=net, device="board")
    assert result.agreement == 1.0
    assert not board.folder.exists()

    with pytest.raises(SystemExit) as end:
        main(["devices", "prepare", "board"])
    assert end.value.code == 0
    kept = next(board.folder.glob("packages-*"))
    assert str(kept) in capsys.readouterr().out
    stamp = (kept / "numpy").stat().st_ino
    with open_driver(load_profile("board")) as driver:
        finished = driver.run(driver.push(write(tmp_path, "import onnxruntime\nprint(onnxruntime.__file__)")), [])
        assert finished.log.startswith(str(kept))
    assert (kept / "numpy").stat().st_ino == stamp


def test_a_model_too_new_for_the_board_is_not_pushed(tmp_path: Path, board: Board, net: Path, driver: Driver) -> None:
    model = onnx.load(net)
    model.ir_version = 99
    onnx.save(model, net)
    with pytest.raises(ModelError, match=r"net.onnx: too new for device board, .*IR version 99, opsets ai\.onnx 18"):
        ship_model(driver, net)
    (session,) = board.sessions()
    assert not list(session.rglob("net.onnx"))


def test_weights_beside_the_model_come_along(tmp_path: Path, net: Path, driver: Driver) -> None:
    apart = tmp_path / "apart.onnx"
    onnx.save(onnx.load(net), apart, save_as_external_data=True, location="weights.bin", size_threshold=0)
    place = Path(ship_model(driver, apart))
    assert sorted(path.name for path in place.parent.iterdir()) == ["apart.onnx", "weights.bin"]
    assert (place.parent / "weights.bin").read_bytes() == (tmp_path / "weights.bin").read_bytes()
    model = onnx.load(apart, load_external_data=False)
    for name in ("../weights.bin", "/etc/passwd"):
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = name if entry.key == "location" else entry.value
        onnx.save(model, tmp_path / "evil.onnx")
        with pytest.raises(ModelError, match="outside its folder"):
            ship_model(driver, tmp_path / "evil.onnx")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match="its weights are missing"):
        ship_model(driver, apart)


@pytest.mark.usefixtures("board")
def test_a_profile_on_a_board(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "RETAKES", 0)
    (model,) = bench([net], device="board", runs=1, profile=True).models
    assert model.profile is not None
    assert "Conv" in {row.operator for row in model.profile.operators}
    assert model.profile.nodes_over_p50 > 0
