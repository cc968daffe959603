"""A quantized file and what is known of it, in one record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgekd.quantization.audit import Audit
    from edgekd.quantization.saturation import Certificate
    from edgekd.quantization.sensitivity import Search
    from edgekd.quantization.slow_blocks import Quickened
    from edgekd.quantization.speed import Speed
    from edgekd.scoring import Evaluation
    from edgekd.targets import Target

SCHEMA = "edgekd.quantization/1"


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A model of fewer bits as bytes, and what is known of it.

    Attributes:
        content: The file.
        target: The instruction set it is for.
        effective: The settings that took effect.
        samples: Calibration samples used.
        fp32_layers: Layers (Conv, Gemm, MatMul) left in fp32, by node name.
        saturation: What the file's weights say of saturation on the target.
        audit: What of the file runs in integers on this machine.
        speed: Its time beside the fp32 model's on this machine; None if that was not asked for, or says nothing
            because the file is for another instruction set.
        evaluation: Against the fp32 model, when evaluation data was given.
        max_drop: The gate, or None.
        search: How layers to keep in fp32 were searched for; None where none had to be.
        quickened: How blocks that are slower in 8 bits were looked for; None where that was not asked for, or the
            file is no slower than the fp32 model.
        synthetic: Whether the calibration samples were made up, for want of data.
        layer_sqnr_db: Of layers with weights of our choosing, in the order of the graph: the ratio of the output to
            the error that rounding the weights leaves in it, in dB (`noise.py`); None where there is none.
    """

    content: bytes
    target: Target
    effective: Mapping[str, Any]
    samples: int
    fp32_layers: tuple[str, ...]
    saturation: Certificate
    audit: Audit
    speed: Speed | None = None
    evaluation: Evaluation | None = None
    max_drop: float | None = None
    search: Search | None = None
    quickened: Quickened | None = None
    synthetic: bool = False
    layer_sqnr_db: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def gate_met(self) -> bool | None:
        """Whether the gate was met; None where nothing is gated."""
        if self.max_drop is None or self.evaluation is None:
            return None
        return self.evaluation.drop <= self.max_drop

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of the contract `edgekd.quantization/1`."""
        reasons = [found.reason for found in (self.search, self.quickened) if found is not None]
        return {
            "schema": SCHEMA,
            "target": self.target.name,
            "effective": dict(self.effective),
            "layers": [{"layer": name, "sqnr_db": _rounded(value)} for name, value in self.layer_sqnr_db.items()],
            "fp32_layers": list(self.fp32_layers),
            "fp32_reason": "; ".join(reasons) or None,
            "mixed_precision": None if self.search is None else self.search.to_json(),
            "slow_blocks": None if self.quickened is None else self.quickened.to_json(),
            "audit": self.audit.to_json(),
            "speed": None if self.speed is None else self.speed.to_json(),
            "saturation": self.saturation.to_json(),
            "calibration": {
                "samples": self.samples,
                "method": self.effective.get("ranges"),
                "synthetic": self.synthetic,
            },
            "gate": {"max_drop": self.max_drop, "met": self.gate_met},
            "evaluation": None if self.evaluation is None else self.evaluation.to_json(),
        }


def _rounded(value_db: float | None) -> float | None:
    return None if value_db is None else round(value_db, 2)
