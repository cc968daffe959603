"""In what a network computes while it is trained."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeAlias

import torch

from edgekd.errors import UsageError

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: Precision, device: torch.device) -> None:
    """See that a device can train in a precision.

    Raises:
        UsageError: it cannot.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UsageError('fp16 needs a GPU, and there is none here; take precision = "bf16" or "fp32"')


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Let matrix products and convolutions run in a precision (torch's autocast) while the context lasts."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=_TYPES[precision])
