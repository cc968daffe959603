"""Histograms of activations, filled batch by batch: memory depends on the model and not on the number of samples.

Edges are fixed before the first value is added, and counts are integers: what a histogram holds does not depend on
how its values were batched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekd.quantization.watching import FETCHED_BYTES, share_out, watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    from numpy.typing import NDArray

    from edgekd.quantization.watching import Calibration

BINS: Final = 8192  # of one histogram: 32 for each of the 256 steps that 8 bits have
_AT_ONCE: Final = 1 << 15  # values binned at a time: their intermediates stay in the cache


@dataclass(kw_only=True, eq=False)
class Histogram:
    """Counts of the values of one tensor in `BINS` bins of equal width.

    Zero is counted a second time: it is padding and what Relu leaves, and 8 bits hold it exactly.

    Attributes:
        low: Lower edge of the first bin, at most 0.
        high: Upper edge of the last bin, at least 0.
        counts: Values in each bin, int64 of shape `(BINS,)`.
        zeros: How many of them are exactly 0.
    """

    low: float
    high: float
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    zeros: int = 0

    @classmethod
    def over(cls, low: float, high: float) -> Histogram:
        """Return an empty histogram whose bins cover `low`, `high` and 0."""
        return cls(low=min(low, 0.0), high=max(high, 0.0))

    def add(self, values: NDArray[np.float32]) -> None:
        """Count values, float32 of any shape; those beyond the edges go to the outermost bins.

        Requires: no NaN.
        """
        flat = values.reshape(-1)
        for start in range(0, flat.size, _AT_ONCE):
            piece = flat[start : start + _AT_ONCE]
            self.counts += np.bincount(self._bins_of(piece), minlength=BINS)
            self.zeros += piece.size - int(np.count_nonzero(piece != 0))

    @property
    def edges(self) -> NDArray[np.float64]:
        """Edges of the bins, `(BINS + 1,)`."""
        return np.linspace(self.low, self.high, BINS + 1)

    @property
    def total(self) -> int:
        """How many values were added."""
        return int(self.counts.sum())

    @property
    def nonzero(self) -> NDArray[np.int64]:
        """Values in each bin that are not exactly 0, `(BINS,)`."""
        counts = self.counts.copy()
        counts[self._bins_of(np.zeros(1, np.float32))] -= self.zeros
        return counts

    def _bins_of(self, values: NDArray[np.float32]) -> NDArray[np.intp]:
        width = self.high - self.low
        positions = np.subtract(values, self.low, dtype=np.float64)
        positions *= BINS / width if width else 0.0
        return np.clip(positions, 0, BINS - 1, out=positions).astype(np.intp)


def collect_histograms(
    model: onnx.ModelProto,
    ranges: Mapping[str, tuple[float, float]],
    calibration: Calibration,
    *,
    most_bytes: int = FETCHED_BYTES,
) -> dict[str, Histogram]:
    """Return a histogram of every tensor in `ranges` over the samples.

    One run leaves at most `most_bytes` of activations behind (or a single larger tensor of one batch): samples are
    taken fewer at a time, and where that is not enough, tensors are shared out over several passes.

    Args:
        model: With shapes and types inferred.
        ranges: Smallest and largest value of each float32 tensor: the edges of its histogram.
        calibration: What the ranges are of.
        most_bytes: The bound.

    Raises:
        DataError: the samples do not fit the model.
        ModelError: the model fails.
    """
    histograms = {tensor: Histogram.over(*bounds) for tensor, bounds in ranges.items()}
    rows, groups = share_out(model, list(ranges), calibration, most_bytes)
    with calibration.progress.task("histograms", calibration.count * len(groups)) as task:
        for group in groups:
            for found, count in watch(model, group, calibration, rows):
                for tensor in group:
                    histograms[tensor].add(found.pop(tensor))
                task.advance(count)
    return histograms
