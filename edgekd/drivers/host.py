"""Facts of the machine this runs on, read where the system offers them."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from edgekd.drivers.protocol import UNAVAILABLE, Facts
from edgekd.errors import UsageError


def read_facts(root: Path = Path("/")) -> Facts:
    """Return this machine's facts; `root` is where `proc` and `sys` are looked for."""
    return Facts(
        target=_target_name(),
        cpu_model=cpu_model(root) or platform.processor() or UNAVAILABLE,
        logical_cores=os.cpu_count(),
        governor=governor(root),
        load_average=_load_average(),
        busy_cpu_s=busy_cpu_s(root),
    )


def cpu_model(root: Path) -> str | None:
    """Return the CPU's name (x86: of /proc/cpuinfo) or the board's (ARM: of the device tree)."""
    for line in read_text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return read_text(root / "proc/device-tree/model").strip("\0 \n") or None


def governor(root: Path) -> str:
    """Return the frequency governors in force, such as "performance", or "unavailable"."""
    files = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    names = {read_text(file).strip() for file in files} - {""}
    return ", ".join(sorted(names)) or UNAVAILABLE


def busy_cpu_s(root: Path) -> float | None:
    """Return the CPU time in seconds that was not idle since the start, from /proc/stat (see proc(5)).

    user + nice + system + irq + softirq + steal; a guest's time is part of user already.
    """
    name, *fields = read_text(root / "proc/stat").partition("\n")[0].split() or [""]
    if name != "cpu" or len(fields) < 8:
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows has none
        return None


def _target_name() -> str:
    from edgekd.targets import detect_host

    try:
        return detect_host().name
    except UsageError:
        return "unknown"  # its INT8 kernels are not known, but it can be measured


def read_text(path: Path) -> str:
    """Return the text of a system file; empty where it is not there or not for us."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
