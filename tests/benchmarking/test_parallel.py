from __future__ import annotations

import json
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from edgekd.benchmarking.parallel import on_devices
from edgekd.cli import main
from edgekd.errors import DeviceError, ModelError, UsageError
from edgekd.progress import SILENT, Progress

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeModel


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    task = SILENT.task


def test_boards_work_at_the_same_time_and_name_themselves() -> None:
    together = threading.Barrier(2, timeout=20)

    def work(name: str, progress: Progress) -> str:
        with progress.task("bench", 1) as task:
            together.wait()
            task.advance()
        if name == "rock-5b":
            raise DeviceError("device rock-5b: gone")
        return name.upper()

    heard = Notes()
    found = on_devices(["raspberry-pi-5", "rock-5b"], work, heard)
    assert list(found) == ["raspberry-pi-5", "rock-5b"]
    assert found["raspberry-pi-5"] == "RASPBERRY-PI-5"
    assert isinstance(found["rock-5b"], DeviceError)
    assert set(heard.notes) == {
        *("raspberry-pi-5: bench ...", "raspberry-pi-5: bench: done"),
        *("rock-5b: bench ...", "rock-5b: bench: done", "rock-5b: device rock-5b: gone"),
    }


def test_those_on_this_machine_take_turns() -> None:
    inside: list[str] = []

    def work(name: str, progress: Progress) -> int:
        inside.append(name)
        time.sleep(0.05)
        count = len(inside)
        inside.remove(name)
        return count

    assert on_devices(["qemu-cortex-a53", "local", "qemu-cortex-a76"], work, SILENT) == {
        "qemu-cortex-a53": 1,
        "local": 1,
        "qemu-cortex-a76": 1,
    }


def test_an_unknown_device_stops_all_before_they_begin() -> None:
    with pytest.raises(UsageError, match="unknown device 'lokal'"):
        on_devices(["local", "lokal"], lambda name, progress: pytest.fail("begun"), SILENT)


def test_a_fault_of_edgekd_is_not_hidden() -> None:
    def work(name: str, progress: Progress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        on_devices(["local", "rock-5b"], work, SILENT)


def test_an_interrupt_reaches_every_device() -> None:
    ended: list[str] = []
    begun = threading.Barrier(2, timeout=20)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    def work(name: str, progress: Progress) -> None:
        try:
            with progress.task("bench", 100) as task:
                begun.wait()
                if name == "rock-5b":
                    os.kill(os.getpid(), signal.SIGUSR1)
                for _ in range(1000):
                    time.sleep(0.01)
                    task.advance()
        except KeyboardInterrupt:
            ended.append(name)
            raise

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            on_devices(["raspberry-pi-5", "rock-5b"], work, SILENT)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sorted(ended) == ["raspberry-pi-5", "rock-5b"]


def test_one_result_a_device_and_exit_code_5_for_the_one_that_failed(
    tmp_path: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "profiles"
    own.mkdir()
    (own / "desk.toml").write_text('description = "desk"\ndriver = "local"\n')
    monkeypatch.setenv("EDGEKD_DEVICES", str(own))
    monkeypatch.setenv("PATH", str(tmp_path))  # no adb
    names = ["local", "pixel-8", "desk", "local"]
    devices = [word for name in names for word in ("--device", name)]
    with pytest.raises(SystemExit) as end:
        main(["bench", str(make_model()), "--runs", "2", "--json", str(tmp_path / "b.json"), *devices])
    assert end.value.code == 5
    said = capsys.readouterr()
    assert "edgekd: 1 device of 3 failed:\n  device pixel-8: there is no adb on this machine" in said.err
    for name in ("local", "desk"):
        assert json.loads((tmp_path / f"b.{name}.json").read_text())["device"]["name"] == name
        assert f"{name} (" in said.out
    assert sorted(path.name for path in tmp_path.glob("b*.json")) == ["b.desk.json", "b.local.json"]


def test_a_faulty_model_is_no_fault_of_the_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", str(tmp_path / "absent.onnx"), "--device", "local", "--device", "qemu-cortex-a53"])
    assert end.value.code == ModelError.exit_code
    assert "2 devices of 2 failed" in capsys.readouterr().err
