"""What `doctor` finds: the machine, models and native libraries."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.doctor.bundle import BundleReport, examine_bundle, is_bundle
from edgekd.doctor.libraries import LibraryReport, examine_libraries, holds_libraries
from edgekd.doctor.machine import (
    TELEMETRY,
    Machine,
    installed_extras,
    library_versions,
    read_machine,
    telemetry_findings,
)
from edgekd.doctor.model import ModelReport, examine
from edgekd.errors import ModelError
from edgekd.targets import find_target, known_host

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgekd.doctor.finding import Finding

SCHEMA = "edgekd.doctor/1"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What `doctor` found.

    Attributes:
        machine: Where it ran.
        versions: Of Python and of the libraries; None for one that is not installed.
        extras: By extra: the packages of it that are missing.
        telemetry: What `ORT_DISABLE_TELEMETRY` is set to; None if it is not set.
        platforms: Those that the models were judged for.
        models: The models that were asked about.
        libraries: The native libraries that were.
        bundles: The bundles that were; their models are among the models.
        findings: What there is to say of this machine.
    """

    machine: Machine
    versions: Mapping[str, str | None]
    extras: Mapping[str, tuple[str, ...]]
    telemetry: str | None
    platforms: tuple[str, ...]
    models: tuple[ModelReport, ...]
    libraries: tuple[LibraryReport, ...]
    bundles: tuple[BundleReport, ...]
    findings: tuple[Finding, ...]

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
            "platforms": list(self.platforms),
            "models": [model.to_json() for model in self.models],
            "libraries": [library.to_json() for library in self.libraries],
            "bundles": [bundle.to_json() for bundle in self.bundles],
            "findings": [finding.to_json() for finding in self.findings],
        }

    def require_sound(self) -> None:
        """Refuse files with errors: those that cannot be loaded, or whose answers may be wrong.

        Raises:
            ModelError: names each of them.
        """
        named = [(model.path, model.findings) for model in self.models]
        named += [(bundle.path, bundle.findings) for bundle in self.bundles]
        named += [(library.name, library.findings) for library in self.libraries]
        ill = [
            f"{name}: {finding.text}"
            for name, findings in named
            for finding in findings
            if finding.severity == "error"
        ]
        if ill:
            raise ModelError("\n".join(ill))


def diagnose(
    files: Sequence[str | Path] = (),
    *,
    target: str = "auto",
    platforms: Sequence[str] = (),
    public_key: str | None = None,
) -> Diagnosis:
    """Return what this machine is, what is installed, and what some files are worth.

    Args:
        files: ONNX files, ours or not; bundles; and native libraries: `.so` files, archives (AAR, APK) and folders
            with such.
        target: Name of the target that models are judged for; `"auto"` is this machine's.
        platforms: Whose packages they are judged for, of `edgekd.bundling.packages.PLATFORMS`.
        public_key: 64 hexadecimal digits: bundles have to be signed with this key.

    Raises:
        ModelError: an archive or folder cannot be read, or has no library in it.
        UsageError: no such target, or that is no public key.
        MissingExtraError: a key was given, and the package cryptography is not installed.
    """
    judged_for = known_host() if target == "auto" else find_target(target)
    telemetry = os.environ.get(TELEMETRY)
    models: list[ModelReport] = []
    libraries: list[LibraryReport] = []
    bundles: list[BundleReport] = []
    for path in map(Path, files):
        if is_bundle(path):
            bundle, inside = examine_bundle(path, judged_for, platforms, public_key)
            bundles.append(bundle)
            models += inside
        elif holds_libraries(path):
            libraries += examine_libraries(path)
        else:
            models.append(examine(path, judged_for, platforms))
    return Diagnosis(
        machine=read_machine(),
        versions=library_versions(),
        extras=installed_extras(),
        telemetry=telemetry,
        platforms=tuple(platforms),
        models=tuple(models),
        libraries=tuple(libraries),
        bundles=tuple(bundles),
        findings=telemetry_findings(telemetry),
    )
