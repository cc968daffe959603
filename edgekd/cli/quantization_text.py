"""What is told of a file: what it became in 8 bits, what it scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgekd.text import bytes_text, counted, share

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAMED: Final = 8  # layers listed by name


def quantization_text(path: Path, content: Mapping[str, Any], size: int) -> str:
    """Return what a quantized file is: a line for the file, and one for each thing to know of it."""
    from edgekd.quantization.synthetic import SYNTHETIC_WARNING

    lines = [] if not content["calibration"]["synthetic"] else [("calibration", f"SYNTHETIC: {SYNTHETIC_WARNING}")]
    if content["effective"].get("batch_dependent"):
        lines.append(("batches", "an answer depends on the samples beside it; scored one sample at a time"))
    lines += [
        ("saturation", _saturation_words(content["saturation"])),
        ("in fp32", _fp32_words(content)),
        ("at run time", _audit_words(content["audit"])),
    ]
    if content["speed"] is not None:
        lines.append(("speed", speed_words(content["speed"])))
    if content["evaluation"] is not None:
        lines.append(("accuracy", evaluation_text(content["evaluation"])))
    told = "\n".join(f"  {name:<12} {words}" for name, words in lines)
    return f"{path}: {bytes_text(size)} for {content['target']}\n{told}"


def _saturation_words(saturation: Mapping[str, Any]) -> str:
    """Return the certificate's verdict."""
    able = saturation["can_saturate"]
    layers = f"{able or 'none'} of {counted(saturation['layers'], 'layer')} can saturate on {saturation['target']}"
    return f"{layers}; the worst: {saturation['worst'][0]['layer']}" if able and saturation["worst"] else layers


def _fp32_words(content: Mapping[str, Any]) -> str:
    """Return which layers stay in fp32, and why."""
    layers, reason, mode = content["fp32_layers"], content["fp32_reason"], content["effective"]["mode"]
    if mode == "fp16":
        return "all of it: only the weights are stored in fp16"
    if not layers and not reason:
        return "no layer"
    plain = "they do not read weights that are quantized"
    why = reason or ("dynamic INT8 is for matrices of weights" if mode == "dynamic" else plain)
    more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
    return f"{', '.join(layers[:NAMED]) or 'no layer'}{more}: {why}"


def _audit_words(audit: Mapping[str, Any]) -> str:
    """Return what onnxruntime makes of the file."""
    integers = counted(sum(audit["quantized"].values()), "integer operator")
    words = f"{integers}, {counted(audit['surviving_qdq'], 'Q/DQ conversion')} left"
    broken = [island for island in audit["fp32_islands"] if island["place"] == "between"]
    if broken:
        names = ", ".join("+".join(island["operators"]) for island in broken)
        words += f", fp32 between integers: {names}"
    if audit["time_us"] is not None:
        slow = sum(island["share"] for island in audit["fp32_islands"])
        words += f", {slow:.0%} of the time in fp32"
    return words


def speed_words(speed: Mapping[str, Any]) -> str:
    """Return how long an inference takes beside the fp32 model."""
    ratio = speed["ratio"]
    verdicts = {"slower": "SLOWER than fp32", "faster": "faster than fp32", "none": "no difference from fp32"}
    return (
        f"{verdicts[ratio['verdict']]}: {speed['file_ms']:.3g} ms against {speed['fp32_ms']:.3g} ms, "
        f"{ratio['median']:.2f} times [{ratio['lower']:.2f}, {ratio['upper']:.2f}] in {ratio['pairs']} alternating "
        "pairs of blocks, one thread"
    )


def evaluation_text(content: Mapping[str, Any]) -> str:
    """Return the figures of an evaluation in a line."""
    parts = [counted(content["samples"], "sample")]
    if content["top1"] is not None:
        against = "" if content["reference_top1"] is None else f" (reference {share(content['reference_top1'])})"
        parts.append(f"top-1 {share(content['top1'])}{against}")
    if content["agreement"] is not None:
        parts.append(f"agrees with the reference on {share(content['agreement'])}")
        parts.append(f"SQNR {content['sqnr_db']:.1f} dB")
    return ", ".join(parts)
