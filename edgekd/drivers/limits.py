"""What a container or a service manager leaves of the machine: control groups of Linux, both versions.

Formats: the kernel's `Documentation/admin-guide/cgroup-v2.rst` (cpu.max, memory.max) and `cgroup-v1/`
(cpu.cfs_quota_us, memory.limit_in_bytes). A group is also bound by those around it, so the least limit counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.drivers.agent import group_files, read

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_LIMIT_BYTES = 2**60  # version 1 writes a huge number where there is no limit


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of this process's control group; None where there is none.

    Attributes:
        cpus: CPU time it may use, in cores.
        memory_bytes: Memory it may use.
    """

    cpus: float | None
    memory_bytes: int | None


def read_limits(root: Path = Path("/")) -> Limits:
    """Return the limits of this process; `root` is where `proc` and `sys` are looked for."""
    return limits_of({path.relative_to(root).as_posix(): read(path) or "" for path in group_files(root)})


def limits_of(files: Mapping[str, str]) -> Limits:
    """Return the limits in the files of a process's control groups, by name; others are ignored."""
    cpus: list[float] = []
    memory: list[int] = []
    for name, text in files.items():
        folder, _, leaf = name.rpartition("/")
        if leaf == "cpu.max":
            cpus += _quota(*(text.split() or ["max", "1"])[:2])
        elif leaf == "cpu.cfs_quota_us":
            cpus += _quota(text, files.get(f"{folder}/cpu.cfs_period_us", ""))
        elif leaf in ("memory.max", "memory.limit_in_bytes"):
            memory += [int(text)] if text.strip().isdecimal() and int(text) < _NO_LIMIT_BYTES else []
    return Limits(cpus=min(cpus, default=None), memory_bytes=min(memory, default=None))


def _quota(quota: str, period: str) -> list[float]:
    """Return a quota of CPU time in cores; nothing where there is none."""
    if not quota.strip().isdecimal() or not period.strip().isdecimal() or int(period) == 0:
        return []
    return [int(quota) / int(period)]
