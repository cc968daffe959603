"""What a run ends with: every file's size, accuracy, latency and memory, and the gate's verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgekd.errors import GateError
from edgekd.seeds import compare_seeds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgekd.artifact import Artifact
    from edgekd.recipe import Recipe

SCHEMA = "edgekd.run/1"


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What a run ended with.

    Attributes:
        folder: Where every artifact lies.
        content: `report.json`, in the form of the contract `edgekd.run/1`.
    """

    folder: Path
    content: Mapping[str, Any]

    @property
    def models(self) -> Sequence[Mapping[str, Any]]:
        """One mapping for each file: role, size, accuracy, latency, memory."""
        models: Sequence[Mapping[str, Any]] = self.content["models"]
        return models

    def require_gate(self) -> None:
        """Hold the INT8 file against the recipe's gate.

        Raises:
            GateError: it lost more accuracy than `quantize.max_drop` allows. Every file has been kept.
        """
        gate = self.content["gate"]
        if gate["met"] is False:
            raise GateError(
                f"gate not met: the INT8 file's top-1 accuracy is {gate['drop']:.4f} below the fp32 student's, at "
                f"most {gate['max_drop']:g} is allowed (quantize.max_drop). {self._on_validation()}"
                f"The best attempt is at {self.folder / 'student.int8.onnx'}."
            )

    def _on_validation(self) -> str:
        reason = self.content["int8"]["fp32_reason"]
        return f"On the validation split: {reason}. " if reason else "On the validation split it was met. "


def report_content(
    recipe: Recipe,
    roles: Mapping[str, Artifact],
    parameters: Mapping[str, int],
    evaluation: Mapping[str, Mapping[str, Any]],
    bench: Mapping[str, Any],
    seeds: Mapping[str, Any] | None = None,
    transfer: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of `report.json`.

    Args:
        recipe: What was run.
        roles: The files.
        parameters: Of each network, by role.
        evaluation: By role.
        bench: Its models in the order of `roles`.
        seeds: What several seeds scored, if there were several; see `edgekd.seeds.compare_seeds`.
        transfer: How the teacher takes the transfer samples, if there are some.
    """
    models = [
        {
            "role": role,
            "path": artifact.path.name,
            "parameters": parameters[role.partition("-")[0]],
            "file_bytes": artifact.path.stat().st_size,
            "top1": evaluation[role]["top1"],
            "agreement_teacher": evaluation[role]["agreement_teacher"],
            "latency_ms": measured["latency_ms"],
            "memory_bytes": measured["memory_bytes"],
        }
        for (role, artifact), measured in zip(roles.items(), bench["models"], strict=True)
    ]
    int8, quantization = evaluation["student-int8"], roles["student-int8"].metrics
    blocks = dict(zip(roles, (measured["block_p50_ms"] for measured in bench["models"]), strict=True))
    max_drop = recipe.quantize.max_drop
    drop = round(int8["reference_top1"] - int8["top1"], 9)
    return {
        "schema": SCHEMA,
        "name": recipe.name,
        "models": models,
        "samples": int8["samples"],
        "int8": {
            "agreement_fp32": int8["agreement"],
            "sqnr_db": int8["sqnr_db"],
            "fp32_layers": quantization["fp32_layers"],
            "fp32_reason": quantization["fp32_reason"],
            "latency_ratio_fp32": _latency_ratio(blocks["student-int8"], blocks["student-fp32"]),
        },
        "seeds": None if seeds is None else compare_seeds(seeds),
        "transfer": transfer,
        "gate": {"max_drop": max_drop, "drop": drop, "met": None if max_drop is None else drop <= max_drop},
        "device": bench["device"],
        "conditions": bench["conditions"],
        "recipe": recipe.effective_sections(),
    }


def _latency_ratio(blocks: Sequence[float] | None, base: Sequence[float] | None) -> dict[str, float | int] | None:
    """Return how the block medians (ms) of two models measured in alternation compare; None if not measured."""
    from edgekd.benchmarking.statistics import paired_ratio

    return None if blocks is None or base is None else asdict(paired_ratio(blocks, base))
