from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

from edgekd.devices import load_profile
from edgekd.drivers import connection, open_driver
from edgekd.drivers.adb import battery_power, sensors, split_files
from edgekd.errors import DeviceError
from edgekd.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

# An adb whose phone is this machine: the app's folder lies below the phone's, and adb's own user has its programs.
ADB = """#!/bin/sh
if [ "$1" = devices ]; then echo 'List of devices attached'; cat '{root}/devices'; exit 0; fi
if ! grep -q "^$2	device" '{root}/devices'; then echo "adb: device '$2' not found" >&2; exit 1; fi
[ "$1 $3 $4" = "-s shell -T" ] && [ $# = 5 ] || exit 64
PATH='{root}/programs':"$PATH" exec sh -c "$5"
"""
RUN_AS = """#!/bin/sh
[ "$1 $2 $3" = "com.termux sh -c" ] || exit 64
[ -d '{root}/termux' ] || {{ echo 'run-as: unknown package: com.termux' >&2; exit 1; }}
cd '{root}/termux' || exit 1
exec sh -c "$(printf %s "$4" | sed 's#/data/data/com.termux#{root}/termux#g')"
"""
GETPROP = """#!/bin/sh
case "$1" in ro.product.manufacturer) echo Google;; ro.product.model) echo 'Pixel 8';; *) echo 'Tensor G3';; esac
"""
DUMPSYS = """#!/bin/sh
[ "$1" = battery ] && printf 'Current Battery Service state:\\n  level: 87\\n  temperature: 312\\n'
[ "$1" = thermalservice ] && printf 'Thermal Status: 1\\nCached:\\n\\tTemperature{mValue=30.0, mType=3, mName=skin, mStatus=0}\\n' &&
  printf 'HAL:\\n\\tTemperature{mValue=31.5, mType=3, mName=skin, mStatus=0}\\n'
exit 0
"""


@dataclass
class Phone:
    root: Path

    def program(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def list(self, text: str) -> None:
        (self.root / "devices").write_text(text)


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    found = Phone(tmp_path / "phone")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    found.program(tmp_path / "bin" / "adb", ADB.format(root=found.root))
    found.program(found.root / "programs" / "run-as", RUN_AS.format(root=found.root))
    found.program(found.root / "programs" / "getprop", GETPROP)
    found.program(found.root / "programs" / "dumpsys", DUMPSYS)
    python = found.root / "termux" / "files" / "usr" / "bin" / "python3"
    found.program(python, f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    found.list("8A1X\tdevice\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    yield found
    assert list(temporary.iterdir()) == []
    assert not list(found.root.rglob("session-*"))


def test_a_script_runs_in_the_apps_folder(tmp_path: Path, phone: Phone) -> None:
    script = tmp_path / "it's $(touch pwned).py"
    script.write_text("import os, sys\nprint(sys.argv[1:])\nopen('out', 'w').write(os.getcwd())\nsys.exit(3)")
    with open_driver(load_profile("pixel-8")) as driver:
        finished = driver.run(driver.push(script), ["a b", "$HOME", "'"])
        driver.pull("out", tmp_path / "out")
        with pytest.raises(DeviceError, match="device pixel-8: there is no file absent"):
            driver.pull("absent", tmp_path / "absent")
    assert (finished.exit_code, finished.log) == (3, "['a b', '$HOME', \"'\"]")
    assert (tmp_path / "out").read_text().startswith(str(phone.root / "termux" / "files" / "home"))


def test_facts_of_a_phone(phone: Phone) -> None:
    with open_driver(load_profile("galaxy-s23")) as driver:
        facts = driver.probe()
    assert facts.cpu_model
    assert facts.battery_percent == 87
    assert facts.temperatures_c["skin"] == 31.5
    assert facts.temperatures_c["battery"] == 31.2
    assert facts.busy_cpu_s is not None
    assert facts.throttling is not None
    assert "Android's thermal status is light" in facts.throttling.now
    assert len(facts.processes) > 1


def test_what_a_phone_prints_is_taken_apart() -> None:
    texts = split_files(
        "#edgekd /proc/cpuinfo\nprocessor\t: 0\nFeatures\t: fp asimddp i8mm\n#edgekd /sys/a/temp\n31\n"
    )
    assert texts == {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimddp i8mm", "sys/a/temp": "31\n"}
    assert split_files("") == {}
    assert sensors("", "") == {}


def test_evaluated_on_a_phone(
    tmp_path: Path, phone: Phone, make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray
) -> None:
    onnx.save(make_conv_net(), tmp_path / "net.onnx")
    result = evaluate(tmp_path / "net.onnx", {"input": images[:4]}, reference=tmp_path / "net.onnx", device="pixel-8")
    assert (result.device, result.agreement) == ("pixel-8", 1.0)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("", "no phone is connected; adb lists: none"),
        ("8A1X\tunauthorized\n", r"unlock the phone .*adb lists: 8A1X \(unauthorized\)"),
        ("8A1X\toffline\n", r"no phone is connected; adb lists: 8A1X \(offline\)"),
        ("8A1X\tdevice\n9B2Y\tdevice\n", "several phones are connected: name one by `serial`"),
    ],
)
def test_which_phone(phone: Phone, listed: str, message: str) -> None:
    phone.list(listed)
    with pytest.raises(DeviceError, match=f"device pixel-8: .*{message}"), open_driver(load_profile("pixel-8")):
        pass


def test_a_phone_is_named_by_its_serial(tmp_path: Path, phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path))
    phone.list("8A1X\tdevice\n10.0.0.7:5555\tdevice\n")
    profile = 'description = "mine"\ndriver = "adb"\n[adb]\nserial = "{}"\n'
    (tmp_path / "mine.toml").write_text(profile.format("10.0.0.7:5555"))
    with open_driver(load_profile("mine")) as driver:
        assert driver.probe().battery_percent == 87
    (tmp_path / "mine.toml").write_text(profile.format("other"))
    with pytest.raises(DeviceError, match="no phone other is connected"), open_driver(load_profile("mine")):
        pass


def test_a_phone_without_the_app(phone: Phone) -> None:
    (phone.root / "termux" / "files" / "usr" / "bin" / "python3").unlink()
    message = r"device pixel-8: no Python of Termux there: .*pkg install python .*adb said: .*python3.*not found"
    with pytest.raises(DeviceError, match=message), open_driver(load_profile("pixel-8")):
        pass
    (phone.root / "termux").rename(phone.root / "other")
    message = r"no Python of Termux there: .*adb said: run-as: unknown package: com\.termux"
    with pytest.raises(DeviceError, match=message), open_driver(load_profile("pixel-8")):
        pass


def test_a_python_without_packages(phone: Phone) -> None:
    python = phone.root / "termux" / "files" / "usr" / "bin" / "python3"
    phone.program(python, f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    with (
        pytest.raises(
            DeviceError, match=r"device pixel-8: Python .* lacks numpy or onnxruntime; .*python-onnxruntime"
        ),
        open_driver(load_profile("pixel-8")),
    ):
        pass


def test_a_lost_phone_comes_back(tmp_path: Path, phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RECONNECT_S", 20.0)
    script = tmp_path / "script.py"
    script.write_text("print('still here')")
    with open_driver(load_profile("pixel-8")) as driver:
        remote = driver.push(script)
        phone.list("")

        def plug_in() -> None:
            time.sleep(0.7)
            phone.list("8A1X\tdevice\n")

        thread = threading.Thread(target=plug_in)
        thread.start()
        assert driver.run(remote, []).log == "still here"
        thread.join()
        monkeypatch.setattr(connection, "RECONNECT_S", 0.0)
        phone.list("")
        with pytest.raises(
            DeviceError, match=r"device pixel-8: the connection to 8A1X was lost; adb said: adb: device"
        ):
            driver.run(remote, [])
        phone.list("8A1X\tdevice\n")


def test_no_adb_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(DeviceError, match="device pixel-8: there is no adb on this machine"),
        open_driver(load_profile("pixel-8")),
    ):
        pass


DISCHARGING = "  AC powered: false\n  USB powered: false\n  status: 3\n  voltage: 4000\n"


@pytest.mark.parametrize(
    ("text", "watts", "source"),
    [
        ("12.5 9.0\ncurrent -500000\ncurrent -400000\n" + DISCHARGING, 2.0, "the battery: the whole phone"),
        ("12.5 9.0\ncurrent \ncurrent 250000\n" + DISCHARGING, 1.0, "the battery"),
        ("12.5 9.0\ncurrent \ncurrent \n" + DISCHARGING, None, "does not tell"),
        ("12.5 9.0\ncurrent -500\n" + DISCHARGING, None, "cannot be in micro amperes"),
        (
            "12.5 9.0\ncurrent -5000000\n" + DISCHARGING.replace("USB powered: false", "USB powered: true"),
            None,
            "charger",
        ),
        ("12.5 9.0\ncurrent -500000\n" + DISCHARGING.replace("status: 3", "status: 2"), None, "charger"),
        ("", None, "charger"),
    ],
)
def test_what_a_phone_draws(text: str, watts: float | None, source: str) -> None:
    found = battery_power(text)
    assert found.watts == (None if watts is None else pytest.approx(watts))
    assert source in found.source
    assert found.at_s == (12.5 if text else 0.0)


def test_a_phone_is_asked_for_its_power(phone: Phone) -> None:
    with open_driver(load_profile("pixel-8")) as driver:
        reading = driver.read_power()
    assert reading is not None
    assert reading.watts is None  # the made-up battery does not say that it is being discharged
    assert "on a charger" in reading.source
