"""Calibrations of a model that messages call "net"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekd.quantization.watching import Calibration

if TYPE_CHECKING:
    from edgekd.data.samples import Samples


def over(samples: Samples, **settings: Any) -> Calibration:
    """Return a calibration over samples."""
    return Calibration(samples=samples, name="net", **settings)
