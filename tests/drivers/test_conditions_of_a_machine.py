"""What a machine says of clocks, heat, throttling and its processes, from made-up trees of /proc and /sys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from trees import tree

from edgekd.drivers import agent
from edgekd.drivers.agent import processes, snapshot
from edgekd.drivers.host import facts_of, read_facts
from edgekd.drivers.limits import Limits
from edgekd.drivers.throttling import Throttling, throttling_of

if TYPE_CHECKING:
    from pathlib import Path

CORE = "processor\t: {}\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: {}\n"
RK3588 = "\n".join(CORE.format(number, "0xd05" if number < 4 else "0xd0b") for number in range(8))
CPU = "sys/devices/system/cpu"
PI = "sys/devices/platform/soc/soc:firmware/get_throttled"


def stat(pid: int, name: str, ticks: int, start: int = 7) -> str:
    """A line of /proc/PID/stat with utime and stime of half the ticks each."""
    return f"{pid} ({name}) S 1 1 1 0 -1 0 0 0 0 0 {ticks // 2} {ticks - ticks // 2} 0 0 20 0 1 0 {start} 0 0"


def test_a_board_in_full(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/cpuinfo": RK3588,
            "proc/stat": "cpu  100 0 50 900 0 0 0 0 0 0",
            "proc/device-tree/model": "Radxa ROCK 5B",
            "proc/self/cgroup": "0::/box",
            "sys/fs/cgroup/box/cpu.max": "150000 100000",
            "sys/fs/cgroup/box/memory.max": "1000000000",
            "proc/12/stat": stat(12, "a (strange) name", 300),
            f"{CPU}/cpu0/cpufreq/scaling_governor": "schedutil",
            f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "1800000",
            f"{CPU}/cpu10/cpufreq/scaling_cur_freq": "2256000",
            f"{CPU}/cpu2/cpufreq/scaling_cur_freq": "408000",
            "sys/class/thermal/thermal_zone0/type": "soc-thermal",
            "sys/class/thermal/thermal_zone0/temp": "45250",
            "sys/class/thermal/cooling_device0/type": "cpufreq-cpu4",
            "sys/class/thermal/cooling_device0/cur_state": "2",
            "sys/class/thermal/cooling_device1/type": "pwm-fan",
            "sys/class/thermal/cooling_device1/cur_state": "3",
        },
    )
    facts = facts_of({**snapshot(str(root)), "machine": "aarch64", "ticks_per_s": 100})
    assert (facts.cpu_model, facts.cores) == ("Radxa ROCK 5B", ("4x Cortex-A55", "4x Cortex-A76"))
    assert (facts.target, facts.flags) == ("arm64-dotprod", ("asimd", "asimddp"))
    assert list(facts.frequencies_mhz.items()) == [("cpu0", 1800.0), ("cpu2", 408.0), ("cpu10", 2256.0)]
    assert facts.temperatures_c == {"soc-thermal 0": 45.25}
    assert facts.throttling == Throttling(now=("cooled by cpufreq-cpu4",), counts={})
    assert facts.limits == Limits(cpus=1.5, memory_bytes=1_000_000_000)
    ((key, process),) = facts.processes.items()
    assert (key, process.name, process.cpu_s) == ("12:7", "a (strange) name", 3.0)


def test_sensors_that_are_not_there_are_not_guessed(tmp_path: Path) -> None:
    facts = read_facts(tree(tmp_path, {"proc/cpuinfo": ""}))
    assert (facts.frequencies_mhz, facts.temperatures_c, facts.processes) == ({}, {}, {})
    assert (facts.throttling, facts.limits, facts.governor, facts.cores) == (None, None, "unavailable", ())


def test_cores_without_a_known_name_keep_their_number() -> None:
    text = CORE.format(0, "0xfff") + CORE.format(1, "0xd0b").replace("0x41", "0x51")
    facts = facts_of(
        {
            "machine": "aarch64",
            "logical_cores": 2,
            "load_average": None,
            "ticks_per_s": 100,
            "files": {"proc/cpuinfo": text},
        }
    )
    assert facts.cores == ("1x core 0x41/0xfff", "1x core 0x51/0xd0b")


@pytest.mark.parametrize(
    ("files", "vcgencmd", "expected"),
    [
        ({}, None, None),
        ({PI: "0"}, None, ()),
        ({PI: "50005"}, None, ("throttled by the firmware", "under-voltage")),
        ({}, "throttled=0xa000a", ("CPU frequency capped", "soft temperature limit")),
        ({}, "VCHI initialization failed", None),
        ({f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3"}, None, ()),
        ({"sys/class/thermal/cooling_device0/cur_state": "1"}, None, None),
    ],
)
def test_what_slows_a_processor_down_now(
    files: dict[str, str], vcgencmd: str | None, expected: tuple[str, ...] | None
) -> None:
    found = throttling_of({"files": files, "vcgencmd": vcgencmd})
    assert (None if found is None else found.now) == expected


def test_what_happened_between_two_readings() -> None:
    def x86(*counts: int) -> Throttling:
        files = {f"{CPU}/cpu{number}/thermal_throttle/core_throttle_count": str(n) for number, n in enumerate(counts)}
        found = throttling_of({"files": files})
        assert found is not None
        return found

    def pi(bits: str) -> Throttling:
        found = throttling_of({"files": {PI: bits}})
        assert found is not None
        return found

    assert x86(3, 4).until(x86(3, 4)) == ()
    assert x86(3, 4).until(x86(3, 5)) == ("core too hot",)
    assert pi("50000").until(pi("50000")) == ()
    assert pi("0").until(pi("50000")) == ("throttled by the firmware", "under-voltage")
    assert pi("1").until(pi("0")) == ("under-voltage",)


def test_a_containers_quota_and_androids_status_slow_down() -> None:
    def group(count: int) -> Throttling:
        found = throttling_of({"files": {"sys/fs/cgroup/cpu.stat": f"usage_usec 5\nnr_throttled {count}"}})
        assert found is not None
        return found

    assert group(4).until(group(5)) == ("the container's CPU quota was used up",)
    hot = throttling_of({"files": {}, "android_thermal_status": 2})
    assert hot is not None
    assert hot.now == ("Android's thermal status is moderate",)
    assert not group(4).sensed
    cool = throttling_of({"files": {}, "android_thermal_status": 0})
    assert cool == Throttling(now=(), counts={})


def test_a_raspberry_pis_own_program_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text('#!/bin/sh\n[ "$*" = get_throttled ] && echo throttled=0x50000\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert agent.vcgencmd() == "throttled=0x50000"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert agent.vcgencmd() is None
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert agent.vcgencmd() is None


def test_lines_that_are_no_process_are_passed_over() -> None:
    text = f"{stat(3, 'a', 10)}\n\n5 (half\n{stat(4, 'b) (c', 20, start=9)}\n"
    assert processes(text) == {"3:7": ["a", 10], "4:9": ["b) (c", 20]}
