"""What a container or a service manager leaves of the machine: control groups of Linux, both versions.

Formats: the kernel's `Documentation/admin-guide/cgroup-v2.rst` (cpu.max, memory.max) and `cgroup-v1/`
(cpu.cfs_quota_us, memory.limit_in_bytes). A group is also bound by those around it, so the least limit counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.drivers.host import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    cpus: list[float] = []
    memory: list[int] = []
    for folder in _groups(root):
        cpus += _quota(*(read_text(folder / "cpu.max").split() or ["max", "1"])[:2])
        cpus += _quota(read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us"))
        found = [read_text(folder / name).strip() for name in ("memory.max", "memory.limit_in_bytes")]
        memory += [int(text) for text in found if text.isdecimal() and int(text) < _NO_LIMIT_BYTES]
    return Limits(cpus=min(cpus, default=None), memory_bytes=min(memory, default=None))


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups and of those around them."""
    mounted = root / "sys/fs/cgroup"
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        base = mounted / controllers if controllers else mounted
        group = base / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(base))


def _quota(quota: str, period: str) -> list[float]:
    """Return a quota of CPU time in cores; nothing where there is none."""
    if not quota.strip().isdecimal() or not period.strip().isdecimal() or int(period) == 0:
        return []
    return [int(quota) / int(period)]
