"""What a model's outputs scored, in one record, and the accuracy gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd import metrics
from edgekd.artifact import rounded
from edgekd.errors import GateError, UsageError
from edgekd.text import sentence

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA = "edgekd.evaluation/1"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model file scored.

    Attributes:
        path: The file.
        sha256: Of the file.
        device: Where it ran.
        samples: How many.
        top1: Accuracy; None without labels.
        agreement: Share of samples on which it chooses as the reference does; None without a reference.
        sqnr_db: Of its first output against the reference's; None without a reference.
        reference_top1: The reference's own accuracy; None without labels or a reference.
    """

    path: str
    sha256: str
    device: str
    samples: int
    top1: float | None
    agreement: float | None
    sqnr_db: float | None
    reference_top1: float | None

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of the contract `edgekd.evaluation/1`."""
        return {
            "schema": SCHEMA,
            "model": {"path": self.path, "sha256": self.sha256},
            "device": self.device,
            "samples": self.samples,
            "top1": self.top1,
            "agreement": self.agreement,
            "sqnr_db": self.sqnr_db,
            "reference_top1": self.reference_top1,
        }

    @property
    def drop(self) -> float:
        """What it lost against the reference: top-1 where there are labels, else 1 - agreement.

        Raises:
            UsageError: it was measured without a reference.
        """
        if self.top1 is not None and self.reference_top1 is not None:
            return round(self.reference_top1 - self.top1, 9)  # 0.9 - 0.89 is 0.01, not more
        if self.agreement is None:
            raise UsageError("a drop is measured against a reference; name one with --reference")
        return round(1 - self.agreement, 9)


def score(
    path: str,
    sha256: str,
    outputs: NDArray[Any],
    labels: NDArray[np.int64] | None,
    reference: NDArray[Any] | None,
    device: str = "local",
) -> Evaluation:
    """Return the figures of outputs that were computed already, rounded to 6 significant digits."""

    def accuracy(logits: NDArray[Any]) -> float | None:
        return None if labels is None else rounded(metrics.top1(logits, labels))

    return Evaluation(
        path=path,
        sha256=sha256,
        device=device,
        samples=len(outputs),
        top1=accuracy(outputs),
        agreement=None if reference is None else rounded(metrics.agreement(outputs, reference)),
        sqnr_db=None if reference is None else rounded(metrics.sqnr_db(outputs, reference)),
        reference_top1=None if reference is None else accuracy(reference),
    )


def require_drop(evaluation: Evaluation, max_drop: float, kept: str, *, reason: str | None = None) -> None:
    """Hold an evaluation against the gate.

    Args:
        evaluation: Against a reference.
        max_drop: The gate.
        kept: A sentence that says where the best attempt is.
        reason: What was tried, in words, where something was.

    Raises:
        GateError: more was lost than `max_drop` allows.
    """
    if not evaluation.drop <= max_drop:
        what = "top-1 accuracy" if evaluation.top1 is not None else "agreement with the reference"
        raise GateError(
            f"gate not met: {what} dropped by {evaluation.drop:.4f}, at most {max_drop:g} is allowed "
            f"({evaluation.samples:,} samples). {sentence(reason) if reason else ''}{kept}"
        )
