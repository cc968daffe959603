"""Is the file faster than the fp32 model it was made from? Measured in alternating blocks in this process.

Blocks of the two follow each other as A B, B A, A B, ...: what drifts slowly falls out of each pair's ratio. One
thread, one sample, all of onnxruntime's optimizations. `edgekd bench` measures more, each block in its own process.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekd.artifact import rounded
from edgekd.benchmarking.statistics import paired_ratio
from edgekd.inference import feed
from edgekd.runtime import open_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgekd.benchmarking.statistics import PairedRatio
    from edgekd.data.samples import Samples
    from edgekd.runtime import Model

BLOCKS: Final = 8
BLOCK_RUNS: Final = 5
BLOCK_S: Final = 0.05
_WARM_UP: Final = 3


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Time of one inference beside the fp32 model's. A field is a list of medians in ms, one a block.

    Attributes:
        file_ms: Of the file.
        fp32_ms: Of the fp32 model, in the neighbouring blocks.
    """

    file_ms: tuple[float, ...]
    fp32_ms: tuple[float, ...]

    @property
    def ratio(self) -> PairedRatio:
        """The file's time as a multiple of the fp32 model's."""
        return paired_ratio(self.file_ms, self.fp32_ms)

    def to_json(self) -> dict[str, Any]:
        """Return it for a result file."""
        ratio = asdict(self.ratio)
        return {
            "threads": 1,
            "file_ms": rounded(float(np.median(self.file_ms))),
            "fp32_ms": rounded(float(np.median(self.fp32_ms))),
            "ratio": {key: rounded(value) if isinstance(value, float) else value for key, value in ratio.items()},
        }


def compare_speed(content: bytes, original: bytes, samples: Samples, *, name: str) -> Speed:
    """Measure a file beside the fp32 model, on the first sample.

    Args:
        content: The file.
        original: The fp32 model.
        samples: At least one.
        name: What messages call them.

    Raises:
        ModelError: one of them cannot be opened or run.
        DataError: the sample does not fit.
    """
    file, fp32 = (open_model(model, name=name, threads=1) for model in (content, original))
    return alternate(_once(file, samples), _once(fp32, samples))


def _once(model: Model, samples: Samples) -> Callable[[], object]:
    feeds, _ = next(feed(model, samples, 1, 1))
    for _ in range(_WARM_UP):
        model.run(feeds)
    return lambda: model.run(feeds)


def alternate(
    file: Callable[[], object],
    fp32: Callable[[], object],
    *,
    blocks: int = BLOCKS,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Run both in alternating blocks, each of them first as often, and return the medians of the blocks.

    Args:
        file: Runs the file once.
        fp32: Runs the fp32 model once.
        blocks: Of each; even.
        clock: Gives seconds.
    """
    medians: tuple[list[float], list[float]] = ([], [])
    for block in range(blocks):
        for which in (0, 1) if block % 2 == 0 else (1, 0):
            medians[which].append(1000 * float(np.median(_timed((file, fp32)[which], clock))))
    return Speed(file_ms=tuple(medians[0]), fp32_ms=tuple(medians[1]))


def _timed(run: Callable[[], object], clock: Callable[[], float]) -> Sequence[float]:
    """Return the times in s of a block of runs: as many as fill it, and a least number."""
    times: list[float] = []
    end = clock() + BLOCK_S
    while len(times) < BLOCK_RUNS or clock() < end:
        start = clock()
        run()
        times.append(clock() - start)
    return times
