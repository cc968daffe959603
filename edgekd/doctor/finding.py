"""A finding: something to know, to mend, or to stop for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal[
    "telemetry",
    "load",
    "external-data",
    "operators",
    "platform",
    "saturation",
    "not-a-number",
    "subnormals",
    "conversions",
    "open-axes",
    "page-size",
    "bundle",
    "answers",
]
Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found.

    Attributes:
        kind: What it is about; of one kind there may be several.
        severity: `"error"` where it does not run or its answers may be wrong; `"warning"` where it costs something.
        message: What it is.
        advice: What to do; empty where there is nothing.
    """

    kind: Kind
    severity: Severity
    message: str
    advice: str = ""

    @property
    def text(self) -> str:
        """It and what to do, in a line."""
        return f"{self.message}. {self.advice}" if self.advice else self.message

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)
