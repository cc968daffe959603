from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgekd.devices import load_profile
from edgekd.drivers import open_driver
from edgekd.drivers.host import read_facts
from edgekd.drivers.jobs import run_job
from edgekd.drivers.local import LocalDriver
from edgekd.errors import DataError, DeviceError, ModelError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgekd.drivers import Driver, Facts

SUBJECTS = {"model": "m.onnx", "data": "d.npz", "device": "device local"}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def driver(temporary: Path) -> Iterator[Driver]:
    with open_driver(load_profile("local")) as driver:
        yield driver
    assert list(temporary.iterdir()) == []


def write(tmp_path: Path, program: str) -> Path:
    script = tmp_path / "script.py"
    script.write_text(program)
    return script


def test_a_script_runs_in_the_private_folder(tmp_path: Path, driver: Driver) -> None:
    script = write(tmp_path, "import sys\nprint(sys.argv[1:])\nopen('out.txt', 'w').write('done')\nsys.exit(3)")
    finished = driver.run(driver.push(script), ["a b", "$HOME"])
    assert (finished.exit_code, finished.log) == (3, "['a b', '$HOME']")
    driver.pull("out.txt", tmp_path / "fetched.txt")
    assert (tmp_path / "fetched.txt").read_text() == "done"
    with pytest.raises(DeviceError, match=r"left no file absent\.txt"):
        driver.pull("absent.txt", tmp_path / "fetched.txt")


def test_a_pushed_file_stays_where_it_is(tmp_path: Path, driver: Driver) -> None:
    assert driver.push(tmp_path / "model.onnx") == str(tmp_path / "model.onnx")


def test_telemetry_is_off_and_neighbours_shadow_nothing(tmp_path: Path, driver: Driver) -> None:
    (tmp_path / "statistics.py").write_text("raise SystemExit('shadowed')")
    script = write(tmp_path, "import os, statistics\nprint(os.environ['ORT_DISABLE_TELEMETRY'])")
    assert driver.run(driver.push(script), []).log == "1"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("number", "message"), [(9, r"killed \(SIGKILL\); the system probably ran out of memory"), (11, "SIGSEGV")]
)
def test_a_killed_script(tmp_path: Path, driver: Driver, number: int, message: str) -> None:
    script = write(tmp_path, f"import os\nprint('last words', flush=True)\nos.kill(os.getpid(), {number})")
    with pytest.raises(DeviceError, match=f"device local: .*{message}.*last words"):
        driver.run(driver.push(script), [])


@pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc")
def test_an_interrupted_parent_leaves_neither_child_nor_folder(tmp_path: Path, temporary: Path) -> None:
    script = write(
        tmp_path, "import os, time\nprint(os.getpid(), flush=True)\nos.kill(os.getppid(), 2)\ntime.sleep(60)"
    )
    program = (
        "import signal, tempfile\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background has it ignored
        f"tempfile.tempdir = {str(temporary)!r}\n"
        "from edgekd.devices import load_profile\n"
        "from edgekd.drivers import open_driver\n"
        "with open_driver(load_profile('local')) as driver:\n"
        "    try:\n"
        f"        driver.run({str(script)!r}, [])\n"
        "    except KeyboardInterrupt:\n"
        "        print((driver.folder / 'log.txt').read_text())\n"
    )
    parent = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (parent.returncode, parent.stderr) == (0, "")
    with pytest.raises(ProcessLookupError):
        os.kill(int(parent.stdout), signal.SIGCONT)
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    script = write(
        tmp_path, "import os, time\nprint(os.getpid(), flush=True)\nos.kill(os.getppid(), 9)\ntime.sleep(60)"
    )
    program = (
        f"import tempfile\ntempfile.tempdir = {str(tmp_path)!r}\n"
        "from edgekd.devices import load_profile\n"
        "from edgekd.drivers import open_driver\n"
        "with open_driver(load_profile('local')) as driver:\n"
        f"    driver.run({str(script)!r}, [])\n"
    )
    parent = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert parent.returncode == -9, parent.stderr
    [log] = tmp_path.glob("edgekd-*/log.txt")
    child, deadline = int(log.read_text()), time.monotonic() + 20
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(number: int) -> bool:
    """Return whether a process is there and is no corpse that nobody has collected yet."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_driver_is_open_only_within_its_block(temporary: Path) -> None:
    driver = LocalDriver(load_profile("local"))
    with pytest.raises(ValueError, match="with block"):
        driver.run("script.py", [])
    with driver:
        driver.prepare()
        assert len(list(temporary.iterdir())) == 1
    with pytest.raises(ValueError, match="with block"):
        driver.run("script.py", [])


def test_no_place_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(OutputError, match="cannot write temporary files here"):
        open_driver(load_profile("local")).prepare()


def test_an_interpreter_that_is_gone(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(DeviceError, match="cannot start /nowhere/python"):
        driver.run("script.py", [])


ANSWER = "import json, sys\njob = json.load(open(sys.argv[1]))\njson.dump({}, open(sys.argv[2], 'w'))"


def test_a_job_goes_in_and_a_result_comes_out(tmp_path: Path, driver: Driver) -> None:
    script = write(tmp_path, ANSWER.format("job | {'more': 1}"))
    assert run_job(driver, script, {"ключ": [1, None]}, SUBJECTS) == {"ключ": [1, None], "more": 1}


@pytest.mark.parametrize(("kind", "error"), [("model", ModelError), ("data", DataError), ("device", DeviceError)])
def test_errors_of_a_job_are_told_apart(tmp_path: Path, driver: Driver, kind: str, error: type[Exception]) -> None:
    script = write(tmp_path, ANSWER.format({"error": {"kind": kind, "message": "it is odd"}}))
    with pytest.raises(error, match=f"^{SUBJECTS[kind]}: it is odd$"):
        run_job(driver, script, {}, SUBJECTS)


def test_a_job_without_a_result(tmp_path: Path, driver: Driver) -> None:
    script = write(tmp_path, "raise SystemExit('no reason')")
    with pytest.raises(DeviceError, match="exit status 1, it said: no reason"):
        run_job(driver, script, {}, SUBJECTS)


def test_facts_of_this_machine(driver: Driver) -> None:
    facts = driver.probe()
    assert facts.target
    assert facts.cpu_model
    assert facts.governor
    if sys.platform == "linux":
        assert facts.busy_cpu_s is not None
    json.dumps(asdict(facts), allow_nan=False)


def fake(root: Path, files: dict[str, str]) -> Facts:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return read_facts(root)


def test_facts_of_a_board(tmp_path: Path) -> None:
    cpufreq = "sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor"
    facts = fake(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\n",
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/stat": "cpu  100 20 30 9000 400 5 6 7 50 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n",
            cpufreq.format(0): "ondemand\n",
            cpufreq.format(1): "performance\n",
            cpufreq.format(10): "ondemand\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "48312\n",
            "sys/class/thermal/thermal_zone1/temp": "switched off\n",
            "sys/class/thermal/thermal_zone12/temp": "-5000\n",
        },
    )
    assert facts.temperatures_c == {"cpu-thermal 0": 48.312, "zone 12": -5.0}
    assert facts.cpu_model == "Raspberry Pi 5 Model B Rev 1.0"
    assert facts.governor == "ondemand, performance"
    assert facts.busy_cpu_s == pytest.approx((100 + 20 + 30 + 5 + 6 + 7) / os.sysconf("SC_CLK_TCK"))


def test_facts_that_a_system_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.delattr(os, "getloadavg")
    facts = fake(tmp_path, {"proc/stat": "cpu  1 2\n"})
    assert (facts.cpu_model, facts.governor) == ("unavailable", "unavailable")
    assert (facts.load_average, facts.busy_cpu_s) == (None, None)


def test_a_machine_without_a_known_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert read_facts().target == "unknown"
