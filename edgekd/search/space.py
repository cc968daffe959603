"""What a search draws, and how a draw becomes settings of a recipe."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgekd.artifact import rounded
from edgekd.recipe import HIGHEST_RATE, LEAST_RATE, DistillSettings
from edgekd.terms import KINDS, PairTerm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgekd.recipe import SearchSettings

DIGITS = 4  # of a drawn number: what is tried can be written down
_REPLACED = ("alpha", "alpha_end", "temperature", "temperature_end", "terms", "learning_rate")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One point of the space.

    Attributes:
        method: The kind of term.
        temperature: Of the term of logits.
        alpha: Weight of the teacher's word against the label's.
        learning_rate: The highest one.
    """

    method: str
    temperature: float
    alpha: float
    learning_rate: float


def bounds(search: SearchSettings, base: DistillSettings) -> dict[str, tuple[float, float]]:
    """Return the bounds of the numbers that are drawn, by name."""
    low, high = max(base.learning_rate / 3, LEAST_RATE), min(base.learning_rate * 3, HIGHEST_RATE)
    rate = search.learning_rate or (rounded(low, DIGITS), rounded(high, DIGITS))
    return {"temperature": search.temperature, "alpha": search.alpha, "learning_rate": rate}


def own_draw(search: SearchSettings, base: DistillSettings) -> Draw | None:
    """Return the recipe's own settings as a point of the space; None where they are none."""
    draw = Draw(method="kd", temperature=base.temperature, alpha=base.alpha, learning_rate=base.learning_rate)
    inside = all(low <= asdict(draw)[name] <= high for name, (low, high) in bounds(search, base).items())
    plain = not base.terms and base.alpha_end is None and base.temperature_end is None
    return draw if inside and plain and draw.method in search.methods else None


def section_of(base: DistillSettings, draw: Draw) -> dict[str, Any]:
    """Return the recipe's `[distill]` section, as JSON data, with what was drawn in its place."""
    section = {
        key: value
        for key, value in base.model_dump(mode="json", exclude_unset=True).items()
        if key not in _REPLACED and value is not None
    }
    section["learning_rate"] = draw.learning_rate
    if draw.method == "kd":
        return {**section, "temperature": draw.temperature, "alpha": draw.alpha}
    soft, rest = {"weight": draw.alpha, "temperature": draw.temperature}, rounded(1 - draw.alpha, DIGITS)
    if is_of_features(draw.method):
        terms = [{"kind": "kd", **soft}, {"kind": draw.method}]
    else:
        terms = [{"kind": draw.method, **soft}]
    mutual = [{"kind": "mutual"}] if base.peers > 1 else []
    return {**section, "terms": [*terms, {"kind": "ce", "weight": rest}, *mutual]}


def settings_of(section: Mapping[str, Any]) -> DistillSettings:
    """Return a section as settings."""
    return DistillSettings.model_validate_json(json.dumps(section))


def is_of_features(method: str) -> bool:
    """Say whether a method looks at features, so that the teacher's stored answers hold those too."""
    return issubclass(KINDS[method], PairTerm)


def toml_value(value: Any) -> str:
    """Return JSON data without null as a TOML value of one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {toml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    text = json.dumps(value, ensure_ascii=False)  # numbers, truth values and text are written alike
    return text.replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if key.isidentifier() and key.isascii() else json.dumps(key)
