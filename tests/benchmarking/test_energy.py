"""Energy: sensors in made-up trees of /sys, on a made-up clock; the arithmetic; the script in a process of its own."""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from standalone import imports_beyond_the_standard_library
from test_runner import job_for

from edgekd.benchmarking import blocks, metered, runner
from edgekd.benchmarking.bench import bench
from edgekd.benchmarking.consumption import Energy, Phases, summarise
from edgekd.benchmarking.energy import mean_w
from edgekd.benchmarking.metered import NoSensorError, find_sensor, meter
from edgekd.drivers.local import LocalDriver
from edgekd.drivers.protocol import PowerReading

if TYPE_CHECKING:
    from conftest import MakeModel

SOURCE = Path(metered.__file__)
DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarking.md"
RAPL = "sys/class/powercap/intel-rapl:{}/{}"
HWMON = "sys/class/hwmon/hwmon{}/{}"
BATTERY = "sys/class/power_supply/BAT0/{}"


def tree(root: Path, files: dict[str, object]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return str(root)


def rapl(number: str, name: str, energy_uj: int, range_uj: int = 1_000_000) -> dict[str, object]:
    values = {"name": name, "energy_uj": energy_uj, "max_energy_range_uj": range_uj}
    return {RAPL.format(number, key): value for key, value in values.items()}


def hwmon(number: int, **values: object) -> dict[str, object]:
    return {HWMON.format(number, key): value for key, value in values.items()}


def battery(**values: object) -> dict[str, object]:
    return {BATTERY.format(key): value for key, value in ({"type": "Battery"} | values).items()}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def metered_joules(root: str, later: dict[str, object], seconds: float) -> tuple[str, float]:
    """Return the sensor, and what it counted while the tree changed and so many seconds passed."""
    sensor, clock = find_sensor(root), Clock()

    def work() -> str:
        tree(Path(root), later)
        clock.now += seconds
        return "done"

    value, joules = meter(sensor, work, clock=clock, every_s=1000.0)
    assert value == "done"
    return sensor.name, joules


def test_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        rapl("0", "package-0", 100) | rapl("0:0", "core", 50) | rapl("1", "package-1", 7) | rapl("2", "psys", 900),
    )
    later = rapl("0", "package-0", 400_100) | rapl("0:0", "core", 300_000) | rapl("1", "package-1", 100_007)
    name, joules = metered_joules(root, later, 1.0)
    assert joules == pytest.approx(0.5)
    assert name == "RAPL package-0, package-1: the processor alone"


def test_a_counter_that_starts_again(tmp_path: Path) -> None:
    root = tree(tmp_path, rapl("0", "package-0", 900_000))
    assert metered_joules(root, rapl("0", "package-0", 200_000), 1.0)[1] == pytest.approx(0.3)


def test_a_counter_may_start_again_more_than_once_between_the_ends(tmp_path: Path) -> None:
    sensor = find_sensor(tree(tmp_path, rapl("0", "package-0", 0)))
    for value in (600_000, 200_000, 800_000, 400_000):
        tree(tmp_path, rapl("0", "package-0", value))
        sensor.update(0.0)
    assert sensor.joules == pytest.approx(2.4)


def test_counters_for_root_alone_are_said_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, plain = tree(tmp_path, rapl("0", "package-0", 1)), Path.read_text

    def read(path: Path, **options: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return plain(path, **options)

    monkeypatch.setattr(Path, "read_text", read)
    with pytest.raises(NoSensorError, match="energy_uj is there, and may not be read by this user") as caught:
        find_sensor(root)
    assert "no power sensor in /sys/class/hwmon; no battery" in str(caught.value)


def test_no_sensor_has_a_reason_for_each_kind(tmp_path: Path) -> None:
    with pytest.raises(NoSensorError) as caught:
        find_sensor(str(tmp_path))
    assert str(caught.value) == (
        "no RAPL counters in /sys/class/powercap; no power sensor in /sys/class/hwmon; "
        "no battery in /sys/class/power_supply"
    )


def test_the_only_power_sensor_is_integrated(tmp_path: Path) -> None:
    root = tree(
        tmp_path, hwmon(0, name="amdgpu", power1_average=90_000_000) | hwmon(1, name="pmic", power1_input=2e6)
    )
    tree(tmp_path, hwmon(1, power1_input=2_000_000))
    name, joules = metered_joules(root, hwmon(1, power1_input=4_000_000), 10.0)
    assert (name, joules) == ("hwmon pmic power1", pytest.approx(30.0))


def test_of_several_rails_the_one_that_carries_all_counts(tmp_path: Path) -> None:
    """As on a Jetson: an INA3221 with millivolts and milliamperes of three rails."""
    rails = hwmon(3, name="ina3221", in1_label="VDD_IN", in1_input=5000, curr1_input=1000)
    rails |= hwmon(3, in2_label="VDD_CPU", in2_input=5000, curr2_input=300, in3_input=9, curr3_input=9)
    name, joules = metered_joules(tree(tmp_path, rails), {}, 2.0)
    assert (name, joules) == ("hwmon ina3221 VDD_IN", pytest.approx(10.0))
    tree(tmp_path, hwmon(3, in1_label="VDD_GPU"))
    with pytest.raises(NoSensorError, match="none is known to be all: ina3221 VDD_GPU, ina3221 VDD_CPU"):
        find_sensor(str(tmp_path))


def test_a_battery_that_is_being_discharged(tmp_path: Path) -> None:
    values = battery(status="Discharging", current_now=-500_000, voltage_now=8_000_000)
    name, joules = metered_joules(tree(tmp_path, values), {}, 3.0)
    assert (name, joules) == ("battery BAT0", pytest.approx(12.0))
    tree(tmp_path, battery(power_now=2_000_000))
    assert metered_joules(str(tmp_path), {}, 3.0)[1] == pytest.approx(6.0)
    tree(tmp_path, battery(status="Charging"))
    with pytest.raises(NoSensorError, match=r"the battery is not being discharged \(Charging\)"):
        find_sensor(str(tmp_path))


def test_a_sensor_that_goes_away_is_no_figure(tmp_path: Path) -> None:
    sensor = find_sensor(tree(tmp_path, hwmon(1, name="pmic", power1_input=1)))
    with pytest.raises(NoSensorError, match="cannot be read"):
        meter(sensor, (tmp_path / HWMON.format(1, "power1_input")).unlink, every_s=1000.0)


def test_energy_above_the_idle_baseline() -> None:
    phase = Phases(idle_j=2.0, idle_s=1.0, work_j=10.0, work_s=2.0, runs=100)
    other = Phases(idle_j=4.0, idle_s=2.0, work_j=5.0, work_s=1.0, runs=50)
    assert summarise([phase, other]) == Energy(
        idle_w=2.0, active_w=5.0, per_inference_mj=60.0, per_inference_total_mj=100.0, runs=150
    )
    idle = Phases(idle_j=5.0, idle_s=1.0, work_j=4.0, work_s=1.0, runs=10)
    assert summarise([idle]).per_inference_mj is None


def test_readings_of_somebody_else() -> None:
    def at(seconds: float, watts: float | None = 2.0) -> PowerReading:
        return PowerReading(at_s=seconds, watts=watts, source="battery")

    readings = [at(0.0, 9.0), at(1.0), at(2.0, 3.0), at(3.0, 4.0), at(5.0, 9.0)]
    assert mean_w(readings, 1.0, 3.0) == 3.0
    assert mean_w(readings, 1.0, 2.0) is None
    assert mean_w([*readings, at(2.5, None)], 1.0, 3.0) is None


def test_what_is_pushed_needs_only_the_runner_beside_it() -> None:
    assert imports_beyond_the_standard_library(SOURCE) == set()
    ast.parse(SOURCE.read_text(), feature_version=(3, 9))


def test_a_job_on_a_made_up_sensor(tmp_path: Path, make_model: MakeModel) -> None:
    root = tree(tmp_path, hwmon(1, name="pmic", power1_input=3_000_000))
    assert metered.measure({"survey": True}, runner, root) == {"sensor": "hwmon pmic power1", "phase_s": 1.0}
    found = metered.measure(job_for(make_model(), phase_s=0.05), runner, root)
    assert found["runs"] > 0
    for phase in ("idle", "work"):
        start, end = found[phase]
        assert 0.149 < found[f"{phase}_j"] <= 3 * (end - start) + 1e-6  # 3 W over 0.05 s at least


def test_the_script_of_a_job_that_is_polled(tmp_path: Path, make_model: MakeModel) -> None:
    job_file, result = tmp_path / "job.json", tmp_path / "result.json"
    job_file.write_text(json.dumps(job_for(make_model(), phase_s=0.02, polled=True)))
    subprocess.run([sys.executable, "-P", SOURCE, job_file, result], check=True)
    found = json.loads(result.read_text())
    assert found["idle_j"] is found["work_j"] is None
    assert found["idle"][0] < found["idle"][1] <= found["work"][0] < found["work"][1]


@pytest.fixture
def phone_power(monkeypatch: pytest.MonkeyPatch) -> list[PowerReading]:
    """What this machine's driver answers when it is asked for its power: the last of the list."""
    readings: list[PowerReading] = []

    def read(_: LocalDriver) -> PowerReading:
        return dataclasses.replace(readings[-1], at_s=metered.boot_s())

    monkeypatch.setattr(LocalDriver, "read_power", read)
    monkeypatch.setattr(blocks, "RETAKES", 0)
    return readings


def test_bench_of_a_device_that_is_polled(
    make_model: MakeModel, phone_power: list[PowerReading], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekd.benchmarking import energy

    monkeypatch.setattr(energy, "POLLED_S", 1.0)
    monkeypatch.setattr(energy, "POLL_EVERY_S", 0.02)
    phone_power.append(PowerReading(at_s=0.0, watts=2.5, source="the battery"))
    result = bench([make_model()], runs=2, repeats=2)
    assert result.conditions.power_sensor == "the battery"
    (model,) = result.models
    assert model.energy is not None
    assert model.energy.idle_w == model.energy.active_w == 2.5
    assert model.energy.runs > 0


def test_bench_without_a_sensor_says_why(make_model: MakeModel, phone_power: list[PowerReading]) -> None:
    phone_power.append(PowerReading(at_s=0.0, watts=None, source="the phone is on a charger"))
    result = bench([make_model()], runs=2, repeats=2)
    assert result.conditions.power_sensor == "unavailable: the phone is on a charger"
    assert result.models[0].energy is None


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(Energy)])
def test_every_key_of_energy_is_documented(key: str) -> None:
    assert f"`{key}`" in DOCUMENT.read_text()
