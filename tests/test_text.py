from __future__ import annotations

from edgekd.text import counted, energy_text, fact_text, nearest


def test_the_nearest_known_word_is_never_the_word_itself() -> None:
    assert nearest("input", ["inputs", "input"]) == " (perhaps you meant 'inputs'?)"
    assert nearest("input", ["input"]) == ""
    assert nearest("digit", {"digits": 1}) == " (perhaps you meant 'digits'?)"


def test_counted_words() -> None:
    assert [counted(n, "sample") for n in (0, 1, 1000)] == ["0 samples", "1 sample", "1,000 samples"]


def test_facts_of_a_device_in_words() -> None:
    assert fact_text(None) == "unavailable"
    assert fact_text(8.47705078125) == "8.48"
    assert fact_text({"python": 0.996, "sshd": None}) == "python 1.00, sshd none"
    assert fact_text([1500, 2400.5]) == "1500, 2400.50"
    assert [fact_text(empty) for empty in ({}, [])] == ["none", "none"]


def test_energy_in_words() -> None:
    assert energy_text(None) == "-"
    assert energy_text({"per_inference_mj": 12.345}) == "12.3 mJ"
    assert energy_text({"per_inference_mj": None}) == "not above idle"
