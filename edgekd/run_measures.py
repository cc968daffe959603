"""What a run measures of its files: their figures on the test split, and their latency and memory."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekd.artifact import Artifact, Origin, canonical_json, rounded, write_json
from edgekd.data.samples import batches
from edgekd.data.transfer import spaced
from edgekd.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgekd.data.samples import ImageSamples, Samples
    from edgekd.progress import Progress
    from edgekd.recipe import BenchSettings
    from edgekd.scoring import Evaluation

COMPARED = 5000  # samples at most of which it is asked how sure the teacher is


def score_roles(roles: Mapping[str, Artifact], test: Samples, progress: Progress) -> dict[str, dict[str, Any]]:
    """Return what each file scores, by role: INT8 against the fp32 student, all of them against the teacher."""
    from edgekd import metrics
    from edgekd.inference import predict
    from edgekd.runtime import open_model
    from edgekd.scoring import score

    outputs = {
        role: predict(open_model(a.path), test, title=f"evaluate {a.path.name}", progress=progress)
        for role, a in roles.items()
    }
    scores = {}
    for role, artifact in roles.items():
        reference = outputs["student-fp32"] if role == "student-int8" else None
        found: Evaluation = score(artifact.path.name, artifact.sha256, outputs[role], test.labels, reference)
        agreement = rounded(metrics.agreement(outputs[role], outputs["teacher"]))
        scores[role] = {**found.to_json(), "agreement_teacher": agreement}
    return scores


def compare_transfer(
    teacher: Artifact, transfer: ImageSamples, test: ImageSamples, progress: Progress
) -> dict[str, Any]:
    """Return what `report.json` says of transfer samples: how the teacher takes them, how many the test has too."""
    from edgekd.inference import predict
    from edgekd.runtime import open_model
    from edgekd.shift import confidence_shift

    model = open_model(teacher.path)
    logits = [
        predict(model, _some(samples), title=f"the teacher on {name} samples", progress=progress)
        for name, samples in (("transfer", transfer), ("test", test))
    ]
    known = _digests(test)
    repeated = sum(digest in known for digest in _digests(transfer).elements())
    return {"samples": len(transfer), **confidence_shift(*logits), "same_as_test": repeated}


def _some(samples: ImageSamples) -> ImageSamples:
    return replace(samples, indices=samples.indices[spaced(len(samples), COMPARED)])


def _digests(samples: ImageSamples) -> Counter[bytes]:
    """Count the samples by their content."""
    found: Counter[bytes] = Counter()
    for batch in batches(samples, 256):
        (values,) = batch.values()
        found.update(hashlib.sha256(value.tobytes()).digest() for value in values)
    return found


def bench_roles(
    roles: Mapping[str, Artifact], settings: BenchSettings, path: Path, progress: Progress
) -> dict[str, Any]:
    """Return the content of `bench.json` at `path`: measured now, or earlier on the same files and settings."""
    from edgekd.benchmarking.bench import bench

    origin = Origin(
        stage="bench",
        settings={**settings.effective(), **_machine(settings.device)},
        parents={artifact.path.name: artifact.sha256 for artifact in roles.values()},
        libraries=("numpy", "onnxruntime"),
    )
    earlier = _earlier_bench(path, origin.key)
    if earlier is not None:
        progress.note("bench: bench.json is unchanged, reused")
        return earlier
    result = bench(
        [artifact.path for artifact in roles.values()],
        device=settings.device,
        threads=(settings.threads,),
        duration_s=settings.duration_s,
        repeats=settings.repeats,
        progress=progress,
    )
    found = result.to_json()
    content = {**found, "origin": _bench_seal(found, origin.key)}
    write_json(path, content)
    return content


def _machine(device: str) -> dict[str, str]:
    """Return what a latency depends on besides files and settings: the device's CPU."""
    from edgekd.devices import load_profile
    from edgekd.drivers import open_driver

    profile = load_profile(device)
    with open_driver(profile) as driver:
        facts = driver.probe()
    return {"target": facts.target if profile.target == "auto" else profile.target, "cpu_model": facts.cpu_model}


def _earlier_bench(path: Path, key: str) -> dict[str, Any] | None:
    """Return an earlier `bench.json` if it is whole, of that key, and nothing disturbed it."""
    from edgekd.benchmarking.results import read_result

    try:
        if read_result(path).conditions.verdict != "valid":
            return None
        earlier: dict[str, Any] = json.loads(path.read_bytes())
    except (DataError, OSError, ValueError):
        return None
    seal = earlier.pop("origin", None)
    return {**earlier, "origin": seal} if seal == _bench_seal(earlier, key) else None


def _bench_seal(content: Mapping[str, Any], key: str) -> str:
    """Return what ties a benchmark's figures to its origin."""
    return hashlib.sha256(key.encode() + canonical_json(content)).hexdigest()
