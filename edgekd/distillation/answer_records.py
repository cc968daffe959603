"""A teacher's answers as records of a fixed size.

A record is a sample's logits in float16, or its k largest logits with their classes and the log-sum-exp of all others
(the tail); and its tapped features in float16. How far a stored answer is off:

- float16 changes a logit z by at most `2^-11 |z| + 2^-25`, hence a log-probability at temperature T by at most twice
  the largest of these over T.
- Of a top-k answer the tail is shared out evenly. For T >= 1 the total variation between true and restored
  distribution at T is at most the restored tail's mass there (`tail_mass`), besides the rounding: an even tail is
  the heaviest of its sum at any such T, so it bounds the true one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgekd.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edgekd.distillation.teacher import Answers

LARGEST_HALF = 65504.0


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a record holds.

    Attributes:
        samples: Records of a view.
        views: Augmentations of a sample.
        classes: Logits of an answer.
        top_k: So many of them are stored; None: all.
        features: The shape of each tapped feature, without the batch axis.
        rows: Records in a shard.
    """

    samples: int
    views: int
    classes: int
    top_k: int | None
    features: tuple[tuple[int, ...], ...]
    rows: int

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The record as a structured dtype."""
        kept: list[tuple[str, str, tuple[int, ...]]]
        if self.top_k is None:
            kept = [("logits", "<f2", (self.classes,))]
        else:
            index = "<u2" if self.classes <= 2**16 else "<u4"
            kept = [("classes", index, (self.top_k,)), ("logits", "<f2", (self.top_k,)), ("tail", "<f4", ())]
        return np.dtype([*kept, *((f"feature{i}", "<f2", shape) for i, shape in enumerate(self.features))])

    @property
    def total_bytes(self) -> int:
        """What all records take."""
        return self.samples * self.views * self.dtype.itemsize

    def shards(self) -> list[tuple[int, int]]:
        """Return (view, first position) of every shard."""
        return [(view, start) for view in range(self.views) for start in range(0, self.samples, self.rows)]

    def length(self, start: int) -> int:
        """Return how many records the shard has that begins at position `start`."""
        return min(self.rows, self.samples - start)

    def count(self, shards: Sequence[tuple[int, int]]) -> int:
        """Return how many records those shards have."""
        return sum(self.length(start) for _, start in shards)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "samples": self.samples,
            "views": self.views,
            "classes": self.classes,
            "top_k": self.top_k,
            "features": [list(shape) for shape in self.features],
            "rows": self.rows,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        """Read what `to_json` wrote."""
        features = tuple(tuple(shape) for shape in data["features"])
        return cls(**{**data, "features": features})


def records_of(answers: Answers, layout: Layout) -> NDArray[np.void]:
    """Return a batch's answers as records.

    Raises:
        ModelError: an answer is not finite, or beyond what float16 holds.
    """
    records = np.empty(len(answers.logits), dtype=layout.dtype)
    logits = answers.logits.detach().float().cpu().numpy()
    if layout.top_k is None:
        records["logits"] = _half(logits, "logits")
    else:
        order = np.argsort(-logits, axis=1, kind="stable")
        kept, rest = order[:, : layout.top_k], order[:, layout.top_k :]
        records["classes"] = kept
        records["logits"] = _half(np.take_along_axis(logits, kept, axis=1), "logits")
        tail = torch.from_numpy(np.take_along_axis(logits, rest, axis=1))
        records["tail"] = torch.logsumexp(tail, dim=1).numpy()
    for number, feature in enumerate(answers.features):
        records[f"feature{number}"] = _half(feature.detach().float().cpu().numpy(), "features")
    return records


def restored_logits(records: NDArray[np.void], layout: Layout) -> NDArray[np.float32]:
    """Return logits (n, classes) of records: of a top-k answer with the tail shared out evenly."""
    if layout.top_k is None:
        return records["logits"].astype(np.float32)
    even = records["tail"] - np.float32(math.log(layout.classes - layout.top_k))
    logits = np.repeat(even[:, None], layout.classes, axis=1)
    np.put_along_axis(logits, records["classes"].astype(np.int64), records["logits"].astype(np.float32), axis=1)
    return logits


def tail_mass(records: NDArray[np.void], layout: Layout, temperature: float) -> NDArray[np.float64]:
    """Return the restored tail's probability at a temperature, of shape (n,), of records of top-k answers."""
    assert layout.top_k is not None
    left = layout.classes - layout.top_k
    kept = records["logits"].astype(np.float64) / temperature
    even = (records["tail"].astype(np.float64) - math.log(left)) / temperature
    # each against the largest logit: nothing overflows
    tail = left * np.exp(even - kept.max(axis=1))
    mass: NDArray[np.float64] = tail / (tail + np.exp(kept - kept.max(axis=1, keepdims=True)).sum(axis=1))
    return mass


def _half(values: NDArray[np.float32], what: str) -> NDArray[np.float16]:
    largest = float(np.abs(values).max(initial=0))
    if not largest <= LARGEST_HALF:
        raise ModelError(
            f"teacher cache: the teacher's {what} reach {largest:g}; expected finite numbers up to "
            f"{LARGEST_HALF:,.0f}, which float16 holds. Train without distill.cache"
        )
    return values.astype(np.float16)
