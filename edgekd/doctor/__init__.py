"""The verb `doctor`: what this machine is, what is installed, and what files are worth here and elsewhere."""

from __future__ import annotations

from edgekd.doctor.bundle import BundleReport, examine_bundle
from edgekd.doctor.diagnosis import SCHEMA, Diagnosis, diagnose
from edgekd.doctor.finding import Finding
from edgekd.doctor.libraries import LibraryReport, examine_libraries
from edgekd.doctor.machine import TELEMETRY, Machine, missing_packages
from edgekd.doctor.model import ModelReport, examine, saturation_note

__all__ = [
    "SCHEMA",
    "TELEMETRY",
    "BundleReport",
    "Diagnosis",
    "Finding",
    "LibraryReport",
    "Machine",
    "ModelReport",
    "diagnose",
    "examine",
    "examine_bundle",
    "examine_libraries",
    "missing_packages",
    "saturation_note",
]
