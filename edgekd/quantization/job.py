"""What every way to quantize does alike: open the model, judge the file, measure it, write it for each target."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import onnx

from edgekd.artifact import indented_json, write_bytes, write_files
from edgekd.errors import UsageError
from edgekd.inference import open_samples, predict
from edgekd.progress import SILENT, Progress
from edgekd.quantization.audit import audit
from edgekd.quantization.intake import take_in
from edgekd.quantization.qdq import fp32_layers
from edgekd.quantization.result import Quantized
from edgekd.quantization.saturation import certify
from edgekd.quantization.speed import compare_speed
from edgekd.quantization.synthetic import synthetic_samples
from edgekd.runtime import open_model, read_self_contained
from edgekd.scoring import Evaluation, score
from edgekd.targets import Target, find_target, is_host

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edgekd.data import Contract
    from edgekd.data.opening import DataLike
    from edgekd.data.samples import Samples
    from edgekd.quantization.sensitivity import Search
    from edgekd.quantization.slow_blocks import Quickened
    from edgekd.quantization.speed import Speed

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = "edgekd.quantized-files/1"


class Common(TypedDict, total=False):
    """The arguments that every way to quantize takes; see `edgekd.quantize`."""

    evaluation: DataLike | None
    max_drop: float | None
    contract: Contract | None
    labels: str
    metadata: Mapping[str, str] | None
    measure: bool
    progress: Progress


class Job(ABC):
    """One fp32 model, from which files for any number of targets are made. The arguments are those of `quantize`."""

    operators: ClassVar[tuple[str, ...]]
    """The layers it can make smaller; a model without one is refused."""
    judged_at_once: ClassVar[int | None] = None
    """How many samples the evaluation runs at a time; None: as many as `predict` takes."""

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        evaluation: DataLike | None = None,
        max_drop: float | None = None,
        contract: Contract | None = None,
        labels: str = "folder",
        metadata: Mapping[str, str] | None = None,
        measure: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        if max_drop is not None and evaluation is None:
            raise UsageError("max_drop is judged on evaluation data; name some with --evaluation")
        self._path = None if isinstance(model, bytes) else Path(model)
        self._name = "the model" if isinstance(model, bytes) else str(model)
        self._original = open_model(model, name=self._name)
        self._fp32 = model if isinstance(model, bytes) else read_self_contained(model)
        self._contract, self._labels = contract, labels
        self._judges = None if evaluation is None else self._open(evaluation)
        self._folded = take_in(self._fp32, self._name, self.operators)
        self._max_drop, self._metadata, self._measure = max_drop, metadata or {}, measure
        self._progress = progress
        self._expected: NDArray[Any] | None = None

    @abstractmethod
    def make(self, target: Target, path: str | None) -> Quantized:
        """Return the file for a target, unwritten; `path` is what its evaluation calls it."""

    def write(self, target: str, output: str | Path | None) -> Quantized:
        """Write the file for one target, or none if `output` is None.

        Raises:
            UsageError: `output` is the model itself.
        """
        if output is not None and self._path is not None and Path(output).exists() and self._path.samefile(output):
            raise UsageError(f"{output}: this is the fp32 model itself; name another file with -o")
        result = self.make(find_target(target), None if output is None else str(output))
        if output is not None:
            write_bytes(Path(output), result.content)
        return result

    def write_all(self, targets: Sequence[str], folder: str | Path) -> dict[Path, Quantized]:
        """Write `<stem>.<target>.onnx` for each target, and `manifest.json`: all of them or none.

        The manifest says which file is for which CPU.
        """
        chosen = list(dict.fromkeys(find_target(name) for name in targets))
        stem = Path(self._name).stem
        paths = {target: Path(folder) / f"{stem}.{target.name}.onnx" for target in chosen}
        results = {path: self.make(target, str(path)) for target, path in paths.items()}
        files = [
            {
                "target": result.target.name,
                "machine": result.target.machine,
                "file": path.name,
                "sha256": hashlib.sha256(result.content).hexdigest(),
                "saturation": result.saturation.to_json(worst=0),
            }
            for path, result in results.items()
        ]
        manifest = indented_json({"schema": MANIFEST_SCHEMA, "files": files})
        contents = {path: result.content for path, result in results.items()}
        write_files({**contents, Path(folder) / MANIFEST: manifest})
        return results

    def _open(self, data: DataLike) -> Samples:
        return open_samples(self._original, data, contract=self._contract, labels=self._labels)

    def _describe(
        self,
        content: bytes,
        target: Target,
        path: str,
        *,
        effective: Mapping[str, Any],
        evaluation: Evaluation | None,
        speed: Speed | None,
        samples: int = 0,
        synthetic: bool = False,
        search: Search | None = None,
        quickened: Quickened | None = None,
        layer_sqnr_db: Mapping[str, float | None] | None = None,
    ) -> Quantized:
        """Return what is known of a file, and measure what of it is fp32 if that was asked for.

        Args:
            content: The file.
            target: What it is for.
            path: What messages call it.
            effective: The settings that took effect.
            evaluation: What it scored.
            speed: See `_timed`.
            samples: Calibration samples used.
            synthetic: Whether they were made up.
            search: How layers to keep in fp32 were searched for.
            quickened: How blocks that are slower in 8 bits were looked for.
            layer_sqnr_db: What rounding the weights leaves of each layer's output.
        """
        model = onnx.load_from_string(content)
        return Quantized(
            content=content,
            target=target,
            effective=effective,
            samples=samples,
            synthetic=synthetic,
            fp32_layers=fp32_layers(model),
            saturation=certify(model, target),
            audit=audit(content, name=path, samples=self._measured_with if self._measure else None),
            speed=speed,
            evaluation=evaluation,
            max_drop=self._max_drop,
            search=search,
            quickened=quickened,
            layer_sqnr_db=layer_sqnr_db or {},
        )

    @cached_property
    def _measured_with(self) -> Samples:
        """Samples of which the first is run when a file is measured: evaluation samples, or a made-up one."""
        return self._judges or synthetic_samples(self._original, self._contract, 1)

    def _timed(self, content: bytes, target: Target, path: str) -> Speed | None:
        """Return a file's time beside the fp32 model's, if that was asked for and this machine is the target."""
        if not self._measure:
            return None
        if not is_host(target):
            self._progress.note(f"{path}: not timed beside fp32, because this machine is not {target.name}")
            return None
        return compare_speed(content, self._fp32, self._measured_with, name=path)

    def _judge(self, content: bytes, path: str, progress: Progress) -> Evaluation | None:
        """Return what a file scores on the evaluation samples; None without any."""
        if self._judges is None:
            return None
        if self._expected is None:
            self._expected = predict(self._original, self._judges, title="evaluate fp32", progress=progress)
        outputs = predict(
            open_model(content, name=path),
            self._judges,
            batch_size=self.judged_at_once,
            title="evaluate the quantized file",
            progress=progress,
        )
        digest = hashlib.sha256(content).hexdigest()
        return score(path, digest, outputs, self._judges.labels, self._expected)
