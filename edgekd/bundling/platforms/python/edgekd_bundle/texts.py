# SPDX-License-Identifier: Apache-2.0
"""How a text becomes token numbers: WordPiece, to the number as where the model was trained."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING


if TYPE_CHECKING:
    from edgekd_bundle.checks import Bundle

_FIXED = {"drop": "", "space": " "}


class Tokenizer:
    """The tokenizer of a bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self.described: dict[str, Any] = bundle.get("text")
        words = bundle.read(bundle.get("text", "vocabulary", kind=str)).decode().split("\n")
        self._numbers = {word: number for number, word in enumerate(words[:-1])}
        self._becomes: dict[int, str] = {}
        lines = bundle.read(bundle.get("text", "characters", kind=str)).decode().splitlines()
        for line in lines:
            span, action, *codes = line.split(" ")
            first, last = (int(code, 16) for code in span.split("-"))
            for code in range(first, last + 1):
                given = f" {chr(code)} " if action == "alone" else "".join(chr(int(one, 16)) for one in codes)
                self._becomes[code] = _FIXED.get(action, given)

    def ids(self, text: str) -> list[int]:
        """Return the token numbers of a text, those of begin and end included."""
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        words = whole.translate(self._becomes).split(" ")
        found = [number for word in words if word for number in self._pieces(word)]
        return [self.described["first"], *found[: self.described["longest"] - 2], self.described["last"]]

    def inputs(self, text: str) -> dict[str, Any]:
        """Return the model's inputs for a text."""
        import numpy as np

        ids = np.asarray([self.ids(text)], dtype=np.int64)
        roles = {"ids": ids, "mask": np.ones_like(ids), "types": np.zeros_like(ids)}
        return {self.described[role]: values for role, values in roles.items() if self.described[role] is not None}

    def _pieces(self, word: str) -> list[int]:
        unknown = [self.described["unknown"]]
        if len(word) > self.described["longest_word"]:
            return unknown
        found: list[int] = []
        begin = 0
        while begin < len(word):
            end, number = self._longest(word, begin)
            if number is None:
                return unknown
            found.append(number)
            begin = end
        return found

    def _longest(self, word: str, begin: int) -> tuple[int, int | None]:
        prefix = self.described["continuation"] if begin else ""
        for end in range(len(word), begin, -1):
            number = self._numbers.get(prefix + word[begin:end])
            if number is not None:
                return end, number
        return begin, None
