"""What this machine is, what is installed, and whether onnxruntime's telemetry is off."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekd.doctor.finding import Finding
from edgekd.drivers.host import read_facts, read_text
from edgekd.drivers.limits import Limits, read_limits
from edgekd.targets import INT8_FLAGS, cpu_flags, known_host

if TYPE_CHECKING:
    from collections.abc import Sequence

TELEMETRY: Final = "ORT_DISABLE_TELEMETRY"
LIBRARIES: Final = ("edgekd", "onnxruntime", "onnx", "numpy", "torch")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine this runs on. What it does not tell is "unavailable" or None.

    Attributes:
        system: Operating system.
        machine: As `platform.machine()` has it.
        cpu_model: Name of the CPU.
        target: Name of its instruction set in `edgekd.targets`; None where no INT8 kernels are known.
        flags: The CPU flags that decide on INT8 kernels.
        logical_cores: Cores that the system schedules on.
        usable_cores: Those that this process may run on.
        memory_bytes: Memory of the machine.
        memory_available_bytes: Memory that is free or can be freed.
        limits: What a container leaves of it.
    """

    system: str
    machine: str
    cpu_model: str
    target: str | None
    flags: tuple[str, ...]
    logical_cores: int | None
    usable_cores: int | None
    memory_bytes: int | None
    memory_available_bytes: int | None
    limits: Limits


def library_versions() -> dict[str, str | None]:
    """Return the versions of Python and of the libraries; None for one that is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}


def installed_extras() -> dict[str, tuple[str, ...]]:
    """Return by extra of edgekd which of its packages are missing."""
    return missing_packages(importlib.metadata.requires("edgekd") or ())


def telemetry_findings(value: str | None) -> tuple[Finding, ...]:
    """Return what there is to say of onnxruntime's telemetry, by what `ORT_DISABLE_TELEMETRY` is set to."""
    if value == "1":
        return ()
    return (
        Finding(
            kind="telemetry",
            severity="warning",
            message="onnxruntime's telemetry is not off",
            advice=f"Set {TELEMETRY}=1 before onnxruntime is imported",
        ),
    )


def missing_packages(requirements: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return by extra which of its packages are not installed.

    Args:
        requirements: As in a distribution's metadata: `"torch>=2.9; extra == 'train'"`.
    """
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        package = re.match(r"[\w.-]+", requirement)
        if extra is None or package is None or extra[1] == "dev":
            continue
        missing = extras.setdefault(extra[1], [])
        if _version(package[0]) is None:
            missing.append(package[0])
    return {extra: tuple(missing) for extra, missing in extras.items()}


def read_machine(root: Path = Path("/")) -> Machine:
    """Return what this machine is; `root` is where `proc` and `sys` are looked for."""
    host = known_host()
    flags = cpu_flags()
    memory = dict(line.split(":", 1) for line in read_text(root / "proc/meminfo").splitlines() if ":" in line)
    affinity = getattr(os, "sched_getaffinity", None)
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpu_model=read_facts(root).cpu_model,
        target=None if host is None else host.name,
        flags=tuple(flag for flag in INT8_FLAGS if flag in flags),
        logical_cores=os.cpu_count(),
        usable_cores=None if affinity is None else len(affinity(0)),
        memory_bytes=_kibibytes(memory.get("MemTotal")),
        memory_available_bytes=_kibibytes(memory.get("MemAvailable")),
        limits=read_limits(root),
    )


def _kibibytes(text: str | None) -> int | None:
    return None if text is None else int(text.split()[0]) * 1024


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
