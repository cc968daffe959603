"""What a page tells, gathered from a run's folder and from result files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgekd.errors import DataError, UsageError, reading
from edgekd.text import nearest

Json = Mapping[str, Any]

RUN, BENCH, EVALUATION, QUANTIZATION, SEARCH = (
    "edgekd.run/1",
    "edgekd.bench/1",
    "edgekd.evaluation/1",
    "edgekd.quantization/1",
    "edgekd.search/1",
)
KNOWN: Final = (RUN, BENCH, EVALUATION, QUANTIZATION, SEARCH)
_TRAINED: Final = ("teacher", "control", "student")


@dataclass(kw_only=True)
class Model:
    """One file, or one file on one device: what is known of it. What is not known is None.

    Attributes:
        name: Its role in a run, or its path; with threads and device where there are several.
        path: As the result names it.
        parameters, file_bytes: Its size.
        top1, agreement_teacher, agreement, sqnr_db: Shares of the samples, and the signal-to-noise ratio of its
            outputs in dB; the last two against the reference.
        latency_ms, memory_bytes: As in `edgekd.bench/1`.
        ratio: Its latency over that of the first model.
        energy: What an inference costs, as in `edgekd.bench/1`.
        profile: Where its time goes, as in `edgekd.bench/1`.
    """

    name: str
    path: str
    parameters: int | None = None
    file_bytes: int | None = None
    top1: float | None = None
    agreement_teacher: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None
    latency_ms: Json | None = None
    memory_bytes: Json | None = None
    ratio: Json | None = None
    energy: Json | None = None
    profile: Json | None = None


@dataclass(kw_only=True)
class Findings:
    """What a page tells.

    Attributes:
        title: Its heading.
        models: In the order of the sources.
        run: `report.json` of a run.
        curves: For each training, by role: one mapping an epoch.
        quantization: For each INT8 file, by path.
        search: `search.json` of a search.
        benches: Device and conditions of each benchmark.
        versions: Of the libraries, by name.
    """

    title: str = "edgekd"
    models: list[Model] = field(default_factory=list)
    run: Json | None = None
    curves: dict[str, Sequence[Json]] = field(default_factory=dict)
    quantization: dict[str, Json] = field(default_factory=dict)
    search: Json | None = None
    benches: list[Json] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def gather(sources: Sequence[str | Path]) -> Findings:
    """Return what the sources tell.

    Args:
        sources: Folders of runs, and files in the forms of `run`, `bench`, `evaluate` and `quantize`.

    Raises:
        UsageError: there is no source.
        DataError: a source is missing, damaged, or in another form.
    """
    if not sources:
        raise UsageError("nothing to report: name a run's folder or a result file")
    findings = Findings()
    for source in map(Path, sources):
        try:
            _add(findings, source)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{source}: not a result of edgekd, or a damaged one: {error!r}") from error
    if findings.run is None:
        findings.title = ", ".join(Path(source).stem for source in sources)
    return findings


def _add(findings: Findings, source: Path) -> None:
    if source.is_dir():
        if not (source / "report.json").is_file():
            raise DataError(f"{source}: no report.json in this folder; expected the folder of a finished run")
        _add_run(findings, source)
        return
    content = _read(source)
    schema = content.get("schema")
    if schema == RUN:
        _add_report(findings, content)
    elif schema == BENCH:
        _add_bench(findings, content)
    elif schema == EVALUATION:
        _add_evaluation(findings, content)
    elif schema == QUANTIZATION:
        findings.quantization[source.name] = content
    elif schema == SEARCH:
        findings.search = content
    else:
        raise DataError(
            f"{source}: expected a result of edgekd, found schema {schema!r}{nearest(str(schema), KNOWN)}; "
            f"known: {', '.join(KNOWN)}"
        )


def _read(path: Path) -> Json:
    with reading(path, DataError, "result file"):
        data = path.read_bytes()
    try:
        content = json.loads(data)
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object")
    return content


def _add_run(findings: Findings, folder: Path) -> None:
    _add_report(findings, _read(folder / "report.json"))
    for role in _TRAINED:
        card = _card(folder, f"{role}.safetensors")
        history = card.get("metrics", {}).get("history", ())
        if history:
            findings.curves[role] = history
        findings.versions.update(card.get("versions", {}))
    if (folder / "search" / "search.json").is_file():
        findings.search = _read(folder / "search" / "search.json")
    card = _card(folder, "student.int8.onnx")
    if card:
        findings.quantization["student.int8.onnx"] = card["metrics"]
        findings.versions.update(card["versions"])


def _card(folder: Path, name: str) -> Json:
    path = folder / f"{name}.card.json"
    return _read(path) if path.is_file() else {}


def _add_report(findings: Findings, content: Json) -> None:
    findings.run, findings.title = content, str(content["name"])
    int8 = content["int8"]
    for model in content["models"]:
        is_int8 = model["role"] == "student-int8"
        findings.models.append(
            Model(
                name=model["role"].replace("-", " "),
                path=model["path"],
                parameters=model["parameters"],
                file_bytes=model["file_bytes"],
                top1=model["top1"],
                agreement_teacher=model["agreement_teacher"],
                agreement=int8["agreement_fp32"] if is_int8 else None,
                sqnr_db=int8["sqnr_db"] if is_int8 else None,
                latency_ms=model["latency_ms"],
                memory_bytes=model["memory_bytes"],
                ratio=int8["latency_ratio_fp32"] if is_int8 else None,
            )
        )
    findings.benches.append({"device": content["device"], "conditions": content["conditions"]})


def _add_bench(findings: Findings, content: Json) -> None:
    several = len({model["threads"] for model in content["models"]}) > 1
    device = content["device"]["name"]
    for model in content["models"]:
        name = Path(model["path"]).name + (f", {model['threads']} threads" if several else "")
        known = _find(findings, model["path"])
        if known is None or known.latency_ms is not None:
            on = f" on {device}" if known is not None else ""
            known = Model(name=name + on, path=model["path"])
            findings.models.append(known)
        known.latency_ms, known.memory_bytes = model["latency_ms"], model["memory_bytes"]
        known.ratio, known.energy = model["ratio_to_first"], model.get("energy")
        known.profile = model.get("profile")
    findings.benches.append({"device": content["device"], "conditions": content["conditions"]})


def _add_evaluation(findings: Findings, content: Json) -> None:
    path = content["model"]["path"]
    known = _find(findings, path)
    if known is None or known.top1 is not None:
        on = f" on {content['device']}" if known is not None else ""
        known = Model(name=Path(path).name + on, path=path)
        findings.models.append(known)
    known.top1, known.agreement, known.sqnr_db = content["top1"], content["agreement"], content["sqnr_db"]


def _find(findings: Findings, path: str) -> Model | None:
    return next((model for model in findings.models if model.path == path), None)
