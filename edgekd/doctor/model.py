"""A model: whether it runs right here and elsewhere, and what it costs.

Whether a file can saturate is read off its integer weights (`quantization/saturation.py`), whoever made it: what its
metadata say of a target is shown, and not believed. Files outside the model's folder are not opened.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from edgekd.artifact import sha256_file
from edgekd.doctor.anatomy import Anatomy, anatomy_findings, dissect
from edgekd.doctor.external import load_external
from edgekd.doctor.finding import Finding
from edgekd.errors import ModelError, UsageError
from edgekd.graph.subnormals import count_subnormals, float_weights
from edgekd.quantization.audit import audit
from edgekd.quantization.saturation import Certificate, certify
from edgekd.runtime import LARGEST_FILE, open_model, read_model
from edgekd.targets import Target, find_target
from edgekd.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_CONVERSIONS: Final = ("QuantizeLinear", "DequantizeLinear")
_ORT_FORMAT: Final = b"ORTM"  # bytes 4 to 8 of an .ort file: its flatbuffers identifier
_NAMED: Final = 5  # tensors or operators listed by name
_RANKS: Final = ("error", "warning", "info")


@dataclass(frozen=True, kw_only=True)
class Conversions:
    """QuantizeLinear and DequantizeLinear nodes: those of a file, and those that onnxruntime leaves.

    Attributes:
        in_file: How many the file has.
        left: How many are left with all optimizations.
        integer_operators: How many integer operators there are then.
        unfused: What computes in fp32 between a DequantizeLinear and a QuantizeLinear: operators that hang together,
            each named once and joined by `+`, and how often.
    """

    in_file: int
    left: int
    integer_operators: int
    unfused: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**vars(self), "unfused": dict(self.unfused)}


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """An ONNX file and what it is worth on a target.

    Attributes:
        path: The file.
        sha256: Of the file; None if it cannot be read.
        bytes: Of the file, likewise.
        loads: Whether onnxruntime opens it here.
        anatomy: What it says of itself; None if it is no ONNX file.
        saturation: What its integer weights say of the target; None where that is not known, or it does not load.
        conversions: What becomes of its QuantizeLinear and DequantizeLinear; None if it has none or does not load.
        subnormals: How many weights are subnormal, by tensor; None if it does not load.
        findings: What there is to say of it, the worst first.
    """

    path: str
    sha256: str | None
    bytes: int | None
    loads: bool
    anatomy: Anatomy | None
    saturation: Certificate | None
    conversions: Conversions | None
    subnormals: Mapping[str, int] | None
    findings: tuple[Finding, ...]

    @property
    def can_saturate(self) -> bool:
        """Whether some input gives a wrong answer on the target."""
        return self.saturation is not None and bool(self.saturation.saturating)

    @property
    def made_for(self) -> str | None:
        """The target that its metadata name; None if they name none."""
        return None if self.anatomy is None else self.anatomy.made_for

    @property
    def verdict(self) -> str:
        """Say what is to be expected of it on the target."""
        return verdict(self.made_for, self.saturation) if self.loads else "cannot be loaded here"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        nothing = dict.fromkeys(Anatomy.__dataclass_fields__)
        return {
            "path": self.path,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "loads": self.loads,
            **(nothing if self.anatomy is None else self.anatomy.to_json()),
            "can_saturate": self.can_saturate if self.saturation is not None else None,
            "saturation": None if self.saturation is None else self.saturation.to_json(),
            "conversions": None if self.conversions is None else self.conversions.to_json(),
            "subnormals": None if self.subnormals is None else dict(self.subnormals),
            "verdict": self.verdict,
            "findings": [finding.to_json() for finding in self.findings],
        }


class _Opened(NamedTuple):
    """What is known of a model once onnxruntime has opened it."""

    saturation: Certificate | None
    conversions: Conversions | None
    subnormals: Mapping[str, int]
    not_a_number: Mapping[str, int]


def examine(path: Path, target: Target | None, platforms: Sequence[str] = ()) -> ModelReport:
    """Return what a file is worth on a target and some platforms. A fault of it is a finding, not an exception.

    Args:
        path: An ONNX file, ours or not.
        target: What it is judged for; None where that is not known.
        platforms: Of `edgekd.bundling.packages.PLATFORMS`: what their packages refuse is found, too.
    """
    content = b""
    anatomy: Anatomy | None = None
    opened: _Opened | None = None
    findings: list[Finding] = []
    try:
        content = read_model(path)
        model = _parse(content, path)
        anatomy = dissect(model, path)
        findings = anatomy_findings(model, anatomy, platforms)
        if not any(finding.kind == "external-data" and finding.severity == "error" for finding in findings):
            opened = _open(path, model, target)
            findings += _opened_findings(anatomy, opened)
    except ModelError as error:
        findings.append(Finding(kind="load", severity="error", message=str(error).removeprefix(f"{path}: ")))
    return ModelReport(
        path=str(path),
        sha256=sha256_file(path, ModelError) if content else None,
        bytes=len(content) if content else None,
        loads=opened is not None,
        anatomy=anatomy,
        saturation=None if opened is None else opened.saturation,
        conversions=None if opened is None else opened.conversions,
        subnormals=None if opened is None else opened.subnormals,
        findings=tuple(sorted(findings, key=lambda finding: _RANKS.index(finding.severity))),
    )


def _parse(content: bytes, path: Path) -> onnx.ModelProto:
    """Return the message in an ONNX file, weights in other files not loaded.

    Raises:
        ModelError: it is none.
    """
    if content[4:8] == _ORT_FORMAT:
        raise ModelError(f"{path}: an .ort file; name the .onnx file that it was made from")
    try:
        return onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX model, or cut off: {error}") from error


def verdict(made_for: str | None, saturation: Certificate | None) -> str:
    """Say what is to be expected of a model on a target.

    Args:
        made_for: The target that its metadata name.
        saturation: What its integer weights say; None where the target is not known.
    """
    origin = f"made for {made_for}" if made_for else "does not say what it was made for"
    if saturation is None:
        return f"{origin}; this CPU's INT8 kernels are not known"
    target, layers = saturation.target, len(saturation.layers)
    if not layers:
        return "no integer layers, so that nothing can saturate"
    if not saturation.saturating:
        return f"{origin}; none of {counted(layers, 'integer layer')} can saturate on {target}"
    return (
        f"{origin}; {len(saturation.saturating)} of {counted(layers, 'integer layer')} can saturate on "
        f"{target}: its answers may be wrong there"
    )


def saturation_note(path: Path, target: str = "auto") -> str | None:
    """Return in a line that a file can saturate on a target, or None where it cannot or that is not known.

    Requires: a file that onnxruntime opens.
    """
    try:
        judged_for = find_target(target)
    except UsageError:
        return None
    made_for = open_model(path).metadata.get("edgekd.target")
    found = certify(onnx.load(path), judged_for)
    return f"{path}: {verdict(made_for, found)}. {_remedy(found)}" if found.saturating else None


def _open(path: Path, model: onnx.ModelProto, target: Target | None) -> _Opened:
    """Open a model in onnxruntime, and look at its weights and at what is left of its conversions.

    Raises:
        ModelError: onnxruntime cannot open it, or its weights cannot be read.
    """
    open_model(path)
    load_external(model, path)
    return _Opened(
        saturation=None if target is None else certify(model, target),
        conversions=_conversions(model, str(path)),
        subnormals=count_subnormals(model),
        not_a_number=_count_not_a_number(model),
    )


def _conversions(model: onnx.ModelProto, name: str) -> Conversions | None:
    """Return what becomes of a model's conversions; None if it has none, or is too large for one file."""
    converting = sum(node.op_type in _CONVERSIONS for node in model.graph.node)
    if not converting or model.ByteSize() >= LARGEST_FILE:
        return None
    found = audit(model.SerializeToString(), name=name)
    unfused = Counter("+".join(dict.fromkeys(island.operators)) for island in found.islands if island.converted)
    return Conversions(
        in_file=converting,
        left=found.quantize + found.dequantize,
        integer_operators=sum(found.quantized.values()),
        unfused=dict(unfused.most_common()),
    )


def _count_not_a_number(model: onnx.ModelProto) -> dict[str, int]:
    """Return by the name of a tensor how many of its weights are NaN; infinity may be meant, as in a mask."""
    counts = {tensor.name: int(np.count_nonzero(np.isnan(values))) for tensor, values in float_weights(model)}
    return {name: count for name, count in counts.items() if count}


def _opened_findings(anatomy: Anatomy, opened: _Opened) -> Iterator[Finding]:
    """Yield what there is to say of a model that onnxruntime opens."""
    saturation = opened.saturation
    if saturation is not None and saturation.saturating:
        message, advice = verdict(anatomy.made_for, saturation), _remedy(saturation)
        yield Finding(kind="saturation", severity="error", message=message, advice=advice)
    if opened.not_a_number:
        message = f"{_weights(opened.not_a_number)} not a number (NaN), and so are the answers that they reach"
        yield Finding(kind="not-a-number", severity="warning", message=message, advice="Export or train it again")
    if opened.subnormals:
        message = f"{_weights(opened.subnormals)} subnormal: some CPUs compute 10 to 30 times slower with these"
        advice = "Set them to zero, as edgekd export does, or the session's session.set_denormal_as_zero to 1"
        yield Finding(kind="subnormals", severity="warning", message=message, advice=advice)
    if opened.conversions is not None:
        yield from _conversion_findings(opened.conversions)


def _conversion_findings(found: Conversions) -> Iterator[Finding]:
    left = f"{found.left} of {counted(found.in_file, 'Q/DQ conversion')} left at run time"
    if not found.integer_operators:
        message = f"no operator of it runs in integers; {left}"
        advice = "Quantize the fp32 model again, activations and weights, in a form that onnxruntime fuses"
        yield Finding(kind="conversions", severity="warning", message=message, advice=advice)
    elif found.unfused:
        message = f"{left}: between integers, in fp32: {_listed(found.unfused)}"
        advice = "Each costs two conversions; edgekd bench FILE FP32 tells whether it is still the faster file"
        yield Finding(kind="conversions", severity="warning", message=message, advice=advice)
    else:
        message = f"{left}, {counted(found.integer_operators, 'integer operator')}"
        yield Finding(kind="conversions", severity="info", message=message)


def _remedy(saturation: Certificate) -> str:
    return f"Quantize the fp32 model with --target {saturation.target}"


def _weights(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return f"{counted(total, 'weight')} ({_listed(counts)}) {'is' if total == 1 else 'are'}"


def _listed(counts: Mapping[str, int]) -> str:
    """Return the most frequent names and how often each occurs."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    more = f" and {len(ranked) - _NAMED} more" if len(ranked) > _NAMED else ""
    return ", ".join(f"{name or 'a constant'} x{count:,}" for name, count in ranked[:_NAMED]) + more
