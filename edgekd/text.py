"""Words and figures for messages, tables and pages."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `" (perhaps you meant 'x'?)"` for the other known word most like `word`, or an empty text."""
    others = [other for other in known if other != word]
    close = difflib.get_close_matches(word, others, n=1, cutoff=0.5)
    return f" (perhaps you meant {close[0]!r}?)" if close else ""


def counted(number: int, noun: str) -> str:
    """Return `"1 sample"`, `"2 samples"`, `"1,000 samples"`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def bytes_text(count: int | None) -> str:
    """Return a size in the unit that fits, or `unavailable`."""
    if count is None:
        return "unavailable"
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def share(value: float | None) -> str:
    """Return a share as per cent with two decimals, or `-`."""
    return "-" if value is None else f"{100 * value:.2f} %"


def milliseconds(latency: Mapping[str, float | None] | None, key: str) -> str:
    """Return a percentile in ms, or `unavailable` where the device or the sample does not give it."""
    value = None if latency is None else latency[key]
    return "unavailable" if value is None else f"{value:.3g} ms"


def ratio_text(ratio: Mapping[str, Any] | None) -> str:
    """Return a ratio with its interval, and whether it is a difference at all; `-` for none."""
    if ratio is None:
        return "-"
    interval = f"{ratio['median']:.3f} [{ratio['lower']:.3f}, {ratio['upper']:.3f}]"
    return f"{interval} {'no difference' if ratio['verdict'] == 'none' else ratio['verdict']}"


def sentence(words: str) -> str:
    """Return words as a sentence to be followed by others: `"it failed"` becomes `"It failed. "`."""
    return f"{words[:1].upper()}{words[1:].rstrip('.')}. "


def cost_text(teacher: Mapping[str, Any], int8: Mapping[str, Any]) -> str:
    """Return what an INT8 file saved and cost beside the teacher; both as `report.json` describes models."""
    smaller = teacher["file_bytes"] / int8["file_bytes"]
    lost = apart(100 * (teacher["top1"] - int8["top1"]))
    return f"The INT8 file is {smaller:.1f}x smaller than the teacher's and {lost} accurate"


def apart(points: float) -> str:
    """Return `"0.84 points less"`, or `"0.28 points more"` for points below zero."""
    return f"{abs(points):.2f} points {'more' if points < 0 else 'less'}"
