"""Facts of a machine, made of what its agent reads where the system offers it."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.drivers.agent import read, snapshot
from edgekd.drivers.protocol import UNAVAILABLE, Facts
from edgekd.errors import UsageError
from edgekd.targets import classify, known_host, parse_cpuinfo

if TYPE_CHECKING:
    from collections.abc import Mapping

UNKNOWN = "unknown"  # a target whose INT8 kernels are not known; its machine can be measured all the same
_THERMAL = "sys/class/thermal/"


def read_facts(root: Path = Path("/")) -> Facts:
    """Return this machine's facts; `root` is where `proc` and `sys` are looked for."""
    found = facts_of(snapshot(str(root)))
    named = found.cpu_model if found.cpu_model != UNAVAILABLE else platform.processor() or UNAVAILABLE
    host = known_host()
    return replace(found, target=UNKNOWN if host is None else host.name, cpu_model=named)


def facts_of(found: Mapping[str, Any]) -> Facts:
    """Return the facts in a snapshot; see `edgekd/drivers/agent.py` for what it holds."""
    files: Mapping[str, str] = found["files"]
    try:
        target = classify(found["machine"].lower(), parse_cpuinfo(files.get("proc/cpuinfo", ""))).name
    except UsageError:
        target = UNKNOWN
    return Facts(
        target=target,
        cpu_model=cpu_model(files) or UNAVAILABLE,
        logical_cores=found["logical_cores"],
        governor=governor(files),
        load_average=found["load_average"],
        busy_cpu_s=busy_cpu_s(files, found["ticks_per_s"]),
        temperatures_c={**temperatures_c(files), **found.get("temperatures_c", {})},
        battery_percent=found.get("battery_percent"),
    )


def cpu_model(files: Mapping[str, str]) -> str | None:
    """Return the CPU's name (x86: of /proc/cpuinfo) or the board's (ARM: of the device tree)."""
    for line in files.get("proc/cpuinfo", "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return files.get("proc/device-tree/model", "").strip("\0 \n") or None


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
