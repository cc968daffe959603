"""What a board says of itself: runs there as it is, and on this machine too.

Python >= 3.9 and the standard library alone; nothing of edgekd.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

# What facts are made of, below the root of the file system. See proc(5) and the kernel's ABI documents.
FILES = (
    "proc/cpuinfo",
    "proc/stat",
    "proc/device-tree/model",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    "sys/class/thermal/thermal_zone*/type",
    "sys/class/thermal/thermal_zone*/temp",
)
PACKAGES = ("numpy", "onnxruntime")


def snapshot(root: str = "/") -> dict[str, Any]:
    """Return this machine's raw facts at this moment, as JSON values; `root` is where the files are looked for."""
    base = Path(root)
    texts = {path.relative_to(base).as_posix(): read(path) for pattern in FILES for path in base.glob(pattern)}
    return {
        "machine": platform.machine(),
        "logical_cores": os.cpu_count(),
        "load_average": load_average(),
        "ticks_per_s": os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100,
        "files": {name: text for name, text in sorted(texts.items()) if text is not None},
    }


def load_average() -> float | None:
    """Return the mean number of running tasks over the last minute, or None where nobody counts them."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows has none
        return None


def read(path: Path) -> str | None:
    """Return a file's text, or None if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
