"""The verb `doctor`: what this machine is, what is installed, and whether INT8 files give right answers here.

Whether a file can saturate is read off its integer weights (`quantization/saturation.py`), whoever made it: what its
metadata say of a target is shown, and not believed.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import onnx

from edgekd.artifact import sha256_file
from edgekd.drivers.host import read_facts, read_text
from edgekd.drivers.limits import Limits, read_limits
from edgekd.errors import ModelError, UsageError
from edgekd.graph.opset import default_opset
from edgekd.quantization.saturation import Certificate, certify
from edgekd.runtime import open_model
from edgekd.targets import INT8_FLAGS, Target, cpu_flags, find_target, known_host
from edgekd.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCHEMA = "edgekd.doctor/1"
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


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """An ONNX file and what it is worth on a target.

    Attributes:
        path: The file.
        sha256: Of the file.
        opset: Version of its standard operators.
        ir_version: Of its format.
        made_for: The target that its metadata name; None if they name none.
        saturation: What its integer weights say of the target; None where the target is not known.
    """

    path: str
    sha256: str
    opset: int
    ir_version: int
    made_for: str | None
    saturation: Certificate | None

    @property
    def can_saturate(self) -> bool:
        """Whether some input gives a wrong answer on the target."""
        return self.saturation is not None and bool(self.saturation.saturating)

    @property
    def verdict(self) -> str:
        """Say what is to be expected of it on the target."""
        origin = f"made for {self.made_for}" if self.made_for else "does not say what it was made for"
        if self.saturation is None:
            return f"{origin}; this CPU's INT8 kernels are not known"
        target, layers = self.saturation.target, len(self.saturation.layers)
        if not layers:
            return "no integer layers, so that nothing can saturate"
        if not self.can_saturate:
            return f"{origin}; none of {counted(layers, 'integer layer')} can saturate on {target}"
        return (
            f"{origin}; {len(self.saturation.saturating)} of {counted(layers, 'integer layer')} can saturate on "
            f"{target}: its answers may be wrong there. Quantize the fp32 model with --target {target}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "opset": self.opset,
            "ir_version": self.ir_version,
            "made_for": self.made_for,
            "can_saturate": self.can_saturate if self.saturation is not None else None,
            "saturation": None if self.saturation is None else self.saturation.to_json(),
            "verdict": self.verdict,
        }


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What `doctor` found.

    Attributes:
        machine: Where it ran.
        versions: Of Python and of the libraries; None for one that is not installed.
        extras: By extra: the packages of it that are missing.
        telemetry: What `ORT_DISABLE_TELEMETRY` is set to; None if it is not set.
        models: The files that were asked about.
    """

    machine: Machine
    versions: Mapping[str, str | None]
    extras: Mapping[str, tuple[str, ...]]
    telemetry: str | None
    models: tuple[ModelReport, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it in the form `edgekd.doctor/1`."""
        machine = asdict(self.machine)
        return {
            "schema": SCHEMA,
            "machine": {**machine, "flags": list(machine["flags"])},
            "versions": dict(self.versions),
            "extras": {
                extra: {"missing": list(missing), "install": f"pip install 'edgekd[{extra}]'" if missing else None}
                for extra, missing in self.extras.items()
            },
            "telemetry": {"variable": TELEMETRY, "value": self.telemetry, "off": self.telemetry == "1"},
            "models": [model.to_json() for model in self.models],
        }

    def require_sound(self) -> None:
        """Refuse files that can saturate.

        Raises:
            ModelError: names each of them.
        """
        ill = [f"{model.path}: {model.verdict}" for model in self.models if model.can_saturate]
        if ill:
            raise ModelError("\n".join(ill))


def diagnose(models: Sequence[str | Path] = (), *, target: str = "auto") -> Diagnosis:
    """Return what this machine is, what is installed, and what some files are worth on a target.

    Args:
        models: ONNX files, ours or not.
        target: Name of the target they are judged for; `"auto"` is this machine's.

    Raises:
        ModelError: a file is missing, damaged, or onnxruntime cannot open it here.
        UsageError: no such target.
    """
    judged_for = known_host() if target == "auto" else find_target(target)
    return Diagnosis(
        machine=_machine(Path("/")),
        versions={"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        extras=missing_packages(importlib.metadata.requires("edgekd") or ()),
        telemetry=os.environ.get(TELEMETRY),
        models=tuple(examine(Path(model), judged_for) for model in models),
    )


def examine(path: Path, target: Target | None) -> ModelReport:
    """Return what a file is worth on a target; None where that is not known.

    Raises:
        ModelError: it is missing, damaged, or onnxruntime cannot open it.
    """
    metadata = open_model(path).metadata
    model = onnx.load(path)
    return ModelReport(
        path=str(path),
        sha256=sha256_file(path, ModelError),
        opset=default_opset(model),
        ir_version=model.ir_version,
        made_for=metadata.get("edgekd.target"),
        saturation=None if target is None else certify(model, target),
    )


def saturation_note(path: Path, target: str = "auto") -> str | None:
    """Return in a line that a file can saturate on a target, or None where it cannot or that is not known.

    Requires: a file that onnxruntime opens.
    """
    try:
        judged_for = find_target(target)
    except UsageError:
        return None
    report = examine(path, judged_for)
    return f"{path}: {report.verdict}" if report.can_saturate else None


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


def _machine(root: Path) -> Machine:
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
