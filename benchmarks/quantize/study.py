"""What every study has: an fp32 file, samples that calibrate, samples that judge, and the figures that tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgekd.metrics import agreement, sqnr_db, top1

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    from edgekd.data.samples import Samples

    Answers = dict[str, NDArray[np.float32]]


class Judge(Protocol):
    """What tells how good a file is."""

    counts: dict[str, int]

    def answer(self, session: InferenceSession) -> Answers:
        """Return what a file answers."""

    def figures(self, found: Answers, expected: Answers) -> dict[str, Any]:
        """Return the figures of a file from its answers and those of the fp32 file."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """One model, ready to be quantized and judged.

    Attributes:
        fp32: The file.
        calibration: An .npz with the samples that calibrate.
        judge: Judges with others.
        timed: An .npz with the sample that is timed; None: made up.
        tools: Names of the tools that take part.
    """

    fp32: Path
    calibration: Path
    judge: Judge
    timed: Path | None
    tools: tuple[str, ...]


class ClassJudge:
    """Judges a classifier by its logits: its accuracy, and how near it is to the fp32 file."""

    def __init__(self, samples: Samples, batch_size: int = 1) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.counts = {"evaluation": len(samples)}

    def answer(self, session: InferenceSession) -> Answers:
        """Return the logits of all samples."""
        starts = range(0, len(self.samples), self.batch_size)
        batches = (range(start, min(start + self.batch_size, len(self.samples))) for start in starts)
        return {"logits": np.concatenate([session.run(None, self.samples.batch(batch))[0] for batch in batches])}

    def figures(self, found: Answers, expected: Answers) -> dict[str, Any]:
        """Return accuracy, agreement and SQNR."""
        logits, wanted = found["logits"], expected["logits"]
        same = bool(np.array_equal(logits, wanted))
        return {
            "top1": round(top1(logits, self.samples.labels), 4),
            "agreement": round(agreement(logits, wanted), 4),
            "sqnr_db": None if same else round(sqnr_db(logits, wanted), 2),
        }


def save_samples(samples: Samples, path: Path) -> Path:
    """Write samples into an .npz and return its path."""
    np.savez(path, **samples.batch(range(len(samples))))
    return path
