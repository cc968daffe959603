from __future__ import annotations

from edgekd.text import counted, nearest


def test_the_nearest_known_word_is_never_the_word_itself() -> None:
    assert nearest("input", ["inputs", "input"]) == " (perhaps you meant 'inputs'?)"
    assert nearest("input", ["input"]) == ""
    assert nearest("digit", {"digits": 1}) == " (perhaps you meant 'digits'?)"


def test_counted_words() -> None:
    assert [counted(n, "sample") for n in (0, 1, 1000)] == ["0 samples", "1 sample", "1,000 samples"]
