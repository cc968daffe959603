"""Words for messages."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `" (perhaps you meant 'x'?)"` for the known word most like `word`, or an empty text."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (perhaps you meant {close[0]!r}?)" if close else ""


def counted(number: int, noun: str) -> str:
    """Return `"1 sample"`, `"2 samples"`, `"1,000 samples"`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
