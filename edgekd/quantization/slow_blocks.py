"""Blocks that 8 bits make slower go back to fp32, where the whole file is slower than the fp32 model.

That happens in small or unusual networks: what is saved in a layer is less than what conversions around it cost, or
its float kernel is better tuned than its integer one. No rule says where, so it is measured: the layers, in the order
of the graph, are cut into at most `BLOCKS` neighbourhoods of like size (neighbours share their conversions), each is
tried in fp32 alone against the file with none, and those that gain more than the noise stay there together, if
together they gain as well.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekd.artifact import rounded
from edgekd.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgekd.benchmarking.statistics import PairedRatio

BLOCKS: Final = 8


@dataclass(frozen=True, kw_only=True)
class Block:
    """Neighbouring layers, and what their 8 bits cost.

    Attributes:
        layers: Their names, in the order of the graph.
        ratio: Time of the file with this block in fp32 as a multiple of that of the file with none.
    """

    layers: tuple[str, ...]
    ratio: PairedRatio


@dataclass(frozen=True, kw_only=True)
class Quickened:
    """What was found.

    Attributes:
        content: The file: as fast as any that was tried.
        before: Time of the file with no block in fp32 as a multiple of the fp32 model's.
        fp32: Names of the layers that went back to fp32.
        gain: Time of `content` as a multiple of the file's before; None where nothing went back.
        blocks: All that were tried.
    """

    content: bytes
    before: PairedRatio
    fp32: tuple[str, ...]
    gain: PairedRatio | None
    blocks: tuple[Block, ...]

    @property
    def reason(self) -> str:
        """Why layers went back to fp32, or why none did."""
        before = f"with every block in 8 bits the file took {self.before.median:.2f} times the fp32 model's time"
        if self.gain is None:
            slower = sum(block.ratio.verdict == "faster" for block in self.blocks)
            if slower == len(self.blocks):
                return f"{before}, and so does each of its blocks: 8 bits save size here, and no time"
            return f"{before}, and leaving blocks of it in fp32 does not make it faster"
        return (
            f"{before}; with its slow blocks ({', '.join(self.fp32)}) in fp32 it takes {self.gain.median:.2f} times "
            "what it took"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as a flat mapping."""
        return {
            "ratio_before": rounded(self.before.median),
            "gain": None if self.gain is None else rounded(self.gain.median),
            "fp32_layers": list(self.fp32),
            "blocks": [
                {"layers": list(block.layers), "ratio": rounded(block.ratio.median), "verdict": block.ratio.verdict}
                for block in self.blocks
            ],
        }


def return_slow_blocks(
    content: bytes,
    before: PairedRatio,
    layers: Sequence[str],
    make: Callable[[frozenset[str]], bytes],
    compare: Callable[[bytes, bytes], PairedRatio],
    *,
    progress: Progress = SILENT,
) -> Quickened:
    """Return the file with the blocks in fp32 that are slower in 8 bits.

    Never all of them: that would be the fp32 model, and of 8 bits not even the smaller file would be left.

    Args:
        content: The file, which is slower than the fp32 model.
        before: Its time as a multiple of the fp32 model's.
        layers: Names of its layers in 8 bits, in the order of the graph.
        make: Gives the file with the layers of these names in fp32 too.
        compare: Gives the time of the first file as a multiple of that of the second.
        progress: Listener.
    """
    blocks = []
    cut = _cut(layers)
    with progress.task("look for blocks that 8 bits make slower", len(cut)) as task:
        for block in cut:
            blocks.append(Block(layers=block, ratio=compare(make(frozenset(block)), content)))
            task.advance(1, f"{blocks[-1].ratio.median:.2f} of the time")
    slow = [block for block in blocks if block.ratio.verdict == "faster"]
    chosen = tuple(name for block in slow for name in block.layers)
    if chosen and len(slow) < len(blocks):
        together = make(frozenset(chosen))
        gain = compare(together, content)
        if gain.verdict == "faster":
            return Quickened(content=together, before=before, fp32=chosen, gain=gain, blocks=tuple(blocks))
    return Quickened(content=content, before=before, fp32=(), gain=None, blocks=tuple(blocks))


def _cut(layers: Sequence[str]) -> list[tuple[str, ...]]:
    count = min(BLOCKS, len(layers))
    edges = [len(layers) * number // count for number in range(count + 1)] if count else []
    return [tuple(layers[start:end]) for start, end in itertools.pairwise(edges)]
