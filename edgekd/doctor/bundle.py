"""A bundle: whether it is whole, signed, for this CPU, and answers here as it should."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import onnxruntime

from edgekd.bundling.manifest import MANIFEST, Manifest, read_manifest, require_whole
from edgekd.bundling.proof import Difference, differences
from edgekd.bundling.signature import SIGNATURE, require_signed
from edgekd.bundling.variants import PLACES
from edgekd.doctor.finding import Finding
from edgekd.doctor.model import ModelReport, examine
from edgekd.errors import DataError, ModelError
from edgekd.onnx_versions import version_key
from edgekd.targets import is_host

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from edgekd.targets import Target


@dataclass(frozen=True, kw_only=True)
class BundleReport:
    """A bundle and what it is worth on a target.

    Attributes:
        path: Its folder.
        name: Of the bundle; None where the manifest cannot be read.
        signed: Whether there is a signature beside the manifest.
        model: Path of the model for the target in the bundle; None where there is none.
        differences: How far its outputs are from those expected; empty where it was not run.
        findings: What there is to say of it.
    """

    path: str
    name: str | None
    signed: bool
    model: str | None
    differences: tuple[Difference, ...]
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            **vars(self),
            "differences": [asdict(difference) for difference in self.differences],
            "findings": [finding.to_json() for finding in self.findings],
        }


def is_bundle(path: Path) -> bool:
    """Return whether a path is a bundle's folder, or its manifest."""
    return (path / MANIFEST).is_file() or path.name == MANIFEST


def examine_bundle(
    path: Path, target: Target | None, platforms: Sequence[str], public_key: str | None = None
) -> tuple[BundleReport, list[ModelReport]]:
    """Return what a bundle is worth on a target, and what each of its models is on the CPUs that it is for.

    Args:
        path: Its folder, or its manifest.
        target: Which model is run, if this machine is one; None where the target is not known.
        platforms: Whose packages the models are judged for.
        public_key: 64 hexadecimal digits: it has to be signed with this key.

    Raises:
        UsageError: that is no public key.
        MissingExtraError: a key was given, and the package cryptography is not installed.
    """
    folder = path.parent if path.name == MANIFEST else path
    signed = (folder / SIGNATURE).is_file()
    try:
        if public_key is not None:
            require_signed(folder, (folder / MANIFEST).read_bytes(), public_key)
        manifest = read_manifest(folder)
        require_whole(folder, manifest)
    except DataError as error:
        finding = Finding(kind="bundle", severity="error", message=str(error), advice="Write or fetch it again")
        report = BundleReport(
            path=str(folder), name=None, signed=signed, model=None, differences=(), findings=(finding,)
        )
        return report, []
    choice = None if target is None else manifest.targets.get(target.name)
    findings = [*_manifest_findings(manifest), *_target_findings(manifest, target)]
    found: list[Difference] = []
    if choice is not None and target is not None and is_host(target):
        try:
            found = differences(folder, manifest, target.name)
        except (DataError, ModelError) as error:
            findings.append(Finding(kind="answers", severity="error", message=str(error)))
    findings += [_wrong(one) for one in found if not one.is_right]
    report = BundleReport(
        path=str(folder),
        name=manifest.name,
        signed=signed,
        model=None if choice is None else choice.model,
        differences=tuple(found),
        findings=tuple(findings),
    )
    return report, _models(folder, manifest, target, platforms)


def _wrong(found: Difference) -> Finding:
    apart = "NaN" if found.apart is None else f"{found.apart:.3g}"
    return Finding(
        kind="answers",
        severity="error",
        message=f"{found.output} differs by {apart} from what is expected here, {found.tolerance:.3g} is allowed",
        advice="Do not ship it for this CPU",
    )


def _manifest_findings(manifest: Manifest) -> Iterator[Finding]:
    least = manifest.runtime.onnxruntime.least
    if version_key(onnxruntime.__version__) < version_key(least):
        yield Finding(
            kind="bundle",
            severity="error",
            message=f"its models need onnxruntime {least}, this one is {onnxruntime.__version__}",
            advice="Install a newer one",
        )
    if manifest.golden.source == "synthetic":
        yield Finding(
            kind="bundle",
            severity="warning",
            message="its golden inputs are made up",
            advice="Bundle it with --data, for the self-tests to test what the app will see",
        )
    chosen = {choice.model for choice in manifest.targets.values()}
    for variant in manifest.variants:
        if variant.path not in chosen:
            yield Finding(
                kind="bundle",
                severity="warning",
                message=f"no CPU gets {variant.path}: another model is better on each",
                advice="Leave it out of the bundle",
            )


def _target_findings(manifest: Manifest, target: Target | None) -> Iterator[Finding]:
    missing = [name for name in PLACES if name not in manifest.targets]
    if target is not None and target.name in missing:
        yield Finding(
            kind="bundle",
            severity="error",
            message=f"no model in it is right on {target.name}",
            advice=f"Quantize one with --target {target.name}, or add the fp32 model",
        )
        missing.remove(target.name)
    if missing:
        yield Finding(kind="bundle", severity="info", message=f"no model in it is right on {', '.join(missing)}")


def _models(folder: Path, manifest: Manifest, target: Target | None, platforms: Sequence[str]) -> list[ModelReport]:
    """Judge each model for this target, if it is for that, or else for another one that it is for."""
    reports = []
    for variant in manifest.variants:
        names = [name for name, choice in manifest.targets.items() if choice.model == variant.path and name in PLACES]
        others = [name for name in (*names, *variant.right_on) if name in PLACES]
        judged = target if target is not None and target.name in names else PLACES[others[0]] if others else None
        if variant.format == "onnx":
            reports.append(examine(folder / variant.path, judged, platforms))
    return reports
