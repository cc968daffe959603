"""How what a run or a search ends with looks: the table of its models, of its seeds, of the trials."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from edgekd.cli import ui
from edgekd.text import (
    bytes_text,
    cost_text,
    counted,
    help_sentences,
    milliseconds,
    search_sentences,
    share,
    transfer_sentences,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def report_table(content: Mapping[str, Any]) -> None:
    """Print the table a run ends with, and in words what it cost."""
    columns = (
        *("", "parameters", "file", "accuracy", "agrees with teacher"),
        *("p50", "p90", "peak memory"),
    )
    rows = [
        (
            model["role"].replace("-", " "),
            f"{model['parameters']:,}",
            bytes_text(model["file_bytes"]),
            share(model["top1"]),
            share(model["agreement_teacher"]),
            milliseconds(model["latency_ms"], "p50"),
            milliseconds(model["latency_ms"], "p90"),
            bytes_text((model["memory_bytes"] or {}).get("peak")),
        )
        for model in content["models"]
    ]
    device = content["device"]
    ui.table(
        f"{content['name']}: {counted(content['samples'], 'test sample')}, {device['name']} ({device['target']})",
        columns,
        rows,
    )
    if content["seeds"] is not None:
        seeds_table(content["seeds"])
    _say_in_words(content)


def _say_in_words(content: Mapping[str, Any]) -> None:
    models = {model["role"]: model for model in content["models"]}
    for sentence in (*help_sentences(content), *transfer_sentences(content)):
        ui.say(sentence)
    ui.say(
        f"{cost_text(models['teacher'], models['student-int8'])}; it agrees with the fp32 student on "
        f"{share(content['int8']['agreement_fp32'])} of the samples."
    )
    if content["int8"]["fp32_reason"] is not None:
        ui.say(f"On the validation split: {content['int8']['fp32_reason']}.")
    ratio = content["int8"]["latency_ratio_fp32"]
    if ratio is not None:
        slower = "; at this size the INT8 file is the slower one" if ratio["verdict"] == "slower" else ""
        ui.say(f"Its latency is {ratio['median']:.2f} times the fp32 student's in alternating runs{slower}.")
    if content["conditions"]["verdict"] != "valid":
        ui.say(f"Conditions of the latencies: {content['conditions']['verdict']}")


def seeds_table(content: Mapping[str, Any]) -> None:
    """Print the test accuracy of every seed; a star marks the one that was kept."""
    rows = [
        (
            role,
            share(content[role]["mean"]),
            share(content[role]["std"]),
            *(
                f"{share(top1)}{' *' if seed == content[role]['shipped_seed'] else ''}"
                for seed, top1 in zip(content["seeds"], content[role]["test_top1"], strict=True)
            ),
        )
        for role in ("student", "control")
        if content[role] is not None
    ]
    seeds = (f"seed {seed}" for seed in content["seeds"])
    ui.table("test accuracy by seed (* kept: the best on the validation split)", ("", "mean", "std", *seeds), rows)


def search_table(content: Mapping[str, Any], recipe: Path, folder: Path) -> None:
    """Print the trials of a search, the best first, and the winner as settings."""
    columns = ("trial", "method", "temperature", "alpha", "learning rate", "validation accuracy", "epochs", "state")
    ranked = sorted(content["trials"], key=lambda trial: -(trial["validation_top1"] or 0))
    ranked.sort(key=lambda trial: (trial["trial"] != content["best"]["trial"], trial["state"] != "complete"))
    rows = [
        (
            str(trial["trial"]),
            trial["method"],
            *(f"{trial[name]:g}" for name in ("temperature", "alpha", "learning_rate")),
            share(trial["validation_top1"]),
            str(trial["epochs"]),
            trial["state"],
        )
        for trial in ranked
    ]
    ui.table(f"{content['name']}: search on the validation split", columns, rows)
    for sentence in search_sentences(content):
        ui.say(sentence)
    ui.say(f"As a section: {folder / 'best.toml'}; as one command:")
    ui.say(shlex.join(["edgekd", "run", str(recipe), "--set", content["best"]["set"]]))
