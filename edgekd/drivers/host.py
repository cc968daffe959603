"""Facts of a machine, made of what its agent reads where the system offers it."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.drivers.agent import read, snapshot
from edgekd.drivers.limits import limits_of
from edgekd.drivers.protocol import UNAVAILABLE, Facts, Process
from edgekd.drivers.throttling import throttling_of
from edgekd.errors import UsageError
from edgekd.targets import INT8_FLAGS, classify, known_host, parse_cpuinfo

if TYPE_CHECKING:
    from collections.abc import Mapping

UNKNOWN = "unknown"  # a target whose INT8 kernels are not known; its machine can be measured all the same
_THERMAL = "sys/class/thermal/"
_CPU = "sys/devices/system/cpu/"
_ARM = "0x41"  # implementer
# Part numbers of Arm's own cores, as in MIDR_EL1: Linux, arch/arm64/include/asm/cputype.h; GCC, aarch64-cores.def.
_ARM_CORES = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd49": "Neoverse-N2",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
    "0xd4f": "Neoverse-V2",
    "0xd80": "Cortex-A520",
    "0xd81": "Cortex-A720",
    "0xd82": "Cortex-X4",
}


def read_facts(root: Path = Path("/")) -> Facts:
    """Return this machine's facts; `root` is where `proc` and `sys` are looked for."""
    found = facts_of(snapshot(str(root)))
    named = found.cpu_model if found.cpu_model != UNAVAILABLE else platform.processor() or UNAVAILABLE
    host = known_host()
    return replace(found, target=UNKNOWN if host is None else host.name, cpu_model=named)


def facts_of(found: Mapping[str, Any]) -> Facts:
    """Return the facts in a snapshot; see `edgekd/drivers/agent.py` for what it holds."""
    files: Mapping[str, str] = found["files"]
    flags, ticks_per_s = parse_cpuinfo(files.get("proc/cpuinfo", "")), found["ticks_per_s"]
    try:
        target = classify(found["machine"].lower(), flags).name
    except UsageError:
        target = UNKNOWN
    return Facts(
        target=target,
        cpu_model=cpu_model(files) or UNAVAILABLE,
        logical_cores=found["logical_cores"],
        governor=governor(files),
        load_average=found["load_average"],
        busy_cpu_s=busy_cpu_s(files, ticks_per_s),
        temperatures_c={**temperatures_c(files), **found.get("temperatures_c", {})},
        battery_percent=found.get("battery_percent"),
        cores=cores(files),
        flags=tuple(flag for flag in INT8_FLAGS if flag in flags),
        frequencies_mhz=frequencies_mhz(files),
        throttling=throttling_of(found),
        processes={
            key: Process(name=name, cpu_s=ticks / ticks_per_s)
            for key, (name, ticks) in found.get("processes", {}).items()
        },
        limits=limits_of(files) if "proc/self/cgroup" in files else None,
    )


def cpu_model(files: Mapping[str, str]) -> str | None:
    """Return the CPU's name (x86: of /proc/cpuinfo) or the board's (ARM: of the device tree)."""
    for line in files.get("proc/cpuinfo", "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return files.get("proc/device-tree/model", "").strip("\0 \n") or None


def cores(files: Mapping[str, str]) -> tuple[str, ...]:
    """Return the cores of an ARM processor as /proc/cpuinfo numbers them, such as "4x Cortex-A76"."""
    names: list[str] = []
    implementer = ""
    for line in files.get("proc/cpuinfo", "").splitlines():
        key, value = (part.strip() for part in line.partition(":")[::2])
        if key == "CPU implementer":
            implementer = value
        elif key == "CPU part":
            known = _ARM_CORES.get(value) if implementer == _ARM else None
            names.append(known or f"core {implementer}/{value}")
    return tuple(f"{names.count(name)}x {name}" for name in dict.fromkeys(names))


def frequencies_mhz(files: Mapping[str, str]) -> dict[str, float]:
    """Return the clock of each core in MHz by the core's name, from cpufreq, which gives kHz."""
    found = {}
    for name, text in files.items():
        if name.startswith(_CPU) and name.endswith("/cpufreq/scaling_cur_freq") and text.strip().isdecimal():
            found[name.removeprefix(_CPU).partition("/")[0]] = int(text) / 1000
    return dict(sorted(found.items(), key=lambda item: int(item[0].removeprefix("cpu"))))


def governor(files: Mapping[str, str]) -> str:
    """Return the frequency governors in force, such as "performance", or "unavailable"."""
    names = {text.strip() for name, text in files.items() if name.endswith("/cpufreq/scaling_governor")} - {""}
    return ", ".join(sorted(names)) or UNAVAILABLE


def busy_cpu_s(files: Mapping[str, str], ticks_per_s: int) -> float | None:
    """Return the CPU time in seconds that was not idle since the start, from /proc/stat (see proc(5)).

    user + nice + system + irq + softirq + steal; a guest's time is part of user already.
    """
    name, *fields = files.get("proc/stat", "").partition("\n")[0].split() or [""]
    if name != "cpu" or len(fields) < 8:
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq + steal) / ticks_per_s


def temperatures_c(files: Mapping[str, str]) -> dict[str, float]:
    """Return the temperature of each thermal zone in degrees Celsius, by the zone's type and number."""
    found = {}
    for name, text in files.items():
        if not (name.startswith(_THERMAL) and name.endswith("/temp")):
            continue
        zone = name.removeprefix(_THERMAL).removesuffix("/temp")
        kind = files.get(f"{_THERMAL}{zone}/type", "").strip() or "zone"
        try:
            millidegrees = int(text)
        except ValueError:
            continue  # a zone that is switched off says so in words
        found[f"{kind} {zone.removeprefix('thermal_zone')}"] = millidegrees / 1000
    return found


def read_text(path: Path) -> str:
    """Return the text of a system file; empty where it is not there or not for us."""
    return read(path) or ""
