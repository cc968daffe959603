"""Words and figures for messages, tables and pages."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `" (perhaps you meant 'x'?)"` for the other known word most like `word`, or an empty text."""
    others = [other for other in known if other != word]
    close = difflib.get_close_matches(word, others, n=1, cutoff=0.5)
    return f" (perhaps you meant {close[0]!r}?)" if close else ""


def counted(number: int, noun: str) -> str:
    """Return `"1 sample"`, `"2 samples"`, `"1,000 samples"`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def bytes_text(count: int | None) -> str:
    """Return a size in the unit that fits, or `unavailable`."""
    if count is None:
        return "unavailable"
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def share(value: float | None) -> str:
    """Return a share as per cent with two decimals, or `-`."""
    return "-" if value is None else f"{100 * value:.2f} %"


def milliseconds(latency: Mapping[str, float | None] | None, key: str) -> str:
    """Return a percentile in ms, or `unavailable` where the device or the sample does not give it."""
    value = None if latency is None else latency[key]
    return "unavailable" if value is None else f"{value:.3g} ms"


def ratio_text(ratio: Mapping[str, Any] | None) -> str:
    """Return a ratio with its interval, and whether it is a difference at all; `-` for none."""
    if ratio is None:
        return "-"
    interval = f"{ratio['median']:.3f} [{ratio['lower']:.3f}, {ratio['upper']:.3f}]"
    return f"{interval} {'no difference' if ratio['verdict'] == 'none' else ratio['verdict']}"


def sentence(words: str) -> str:
    """Return words as a sentence to be followed by others: `"it failed"` becomes `"It failed. "`."""
    return f"{words[:1].upper()}{words[1:].rstrip('.')}. "


def cost_text(teacher: Mapping[str, Any], int8: Mapping[str, Any]) -> str:
    """Return what an INT8 file saved and cost beside the teacher; both as `report.json` describes models."""
    smaller = teacher["file_bytes"] / int8["file_bytes"]
    lost = apart(100 * (teacher["top1"] - int8["top1"]))
    return f"The INT8 file is {smaller:.1f}x smaller than the teacher's and {lost} accurate"


def help_sentences(report: Mapping[str, Any]) -> list[str]:
    """Return in words whether distillation helped, of a `report.json`; nothing where there is no control."""
    models = {model["role"]: model for model in report["models"]}
    seeds = report.get("seeds")
    if "control" not in models:
        return []
    if seeds is not None:
        return [f"{_spread(seeds, 'student')}, {_spread(seeds, 'control')}.", _gain(seeds["gain"])]
    student, control = models["student-fp32"]["top1"], models["control"]["top1"]
    gained, error = student - control, (control * (1 - control) / report["samples"]) ** 0.5
    told = (
        f"The same student without a teacher (the control) is {apart(100 * gained)} accurate than the distilled one; "
        f"one such figure has a standard error of {100 * error:.2f} points."
    )
    if gained <= 0:
        return [told, "So distillation did not help here."]
    if gained < 2 * 2**0.5 * error:  # about 95 % of the differences of two equals
        return [told, "So little can be chance: distill.seeds = 3 or more would tell."]
    return [told]


def _spread(seeds: Mapping[str, Any], role: str) -> str:
    who = f"Over {counted(len(seeds['seeds']), 'seed')} the distilled student" if role == "student" else "the control"
    found = seeds[role]
    return f"{who} scores {share(found['mean'])} (standard deviation {100 * found['std']:.2f} points)"


def _gain(gain: Mapping[str, Any]) -> str:
    points = 100 * gain["difference"]
    if gain["verdict"] == "untested":
        return f"That is {points:+.2f} points, with no spread among the seeds to test it against."
    tested = (
        f"{points:+.2f} points [{100 * gain['lower']:+.2f}, {100 * gain['upper']:+.2f}] by Welch's test, "
        f"p = {gain['p_value']:.2g}"
    )
    if gain["verdict"] == "helped":
        return f"Distillation helped: {tested}."
    if gain["verdict"] == "hurt":
        return f"Distillation did not help, it hurt: {tested}."
    return f"Distillation did not measurably help here: {tested}, is within the noise of the seeds."


def transfer_sentences(report: Mapping[str, Any]) -> list[str]:
    """Return in words how a teacher takes the transfer samples, of a `report.json`; nothing where there are none."""
    found = report.get("transfer")
    if found is None:
        return []
    transfer, test = found["transfer"], found["test"]
    told = (
        f"Of a transfer sample the teacher is {share(transfer['max_probability'])} sure on average, of a test sample "
        f"{share(test['max_probability'])} (entropy {transfer['entropy']:.3f} and {test['entropy']:.3f} nats; "
        f"Kolmogorov-Smirnov distance {found['ks_distance']:.2f})."
    )
    warnings = []
    if found["shift"]:
        warnings.append(
            "WARNING: so far apart, the transfer samples may not be of the test's kind; what the teacher says of "
            "them may be worth little."
        )
    if found["same_as_test"]:
        warnings.append(
            f"WARNING: {counted(found['same_as_test'], 'transfer sample')} of {found['samples']:,} occur in the test "
            "split, too; the student's test figures may be too good."
        )
    return [told, *warnings]


def search_sentences(search: Mapping[str, Any]) -> list[str]:
    """Return in words what a search found, of a `search.json`."""
    trials = {trial["trial"]: trial for trial in search["trials"]}
    best, first = trials[search["best"]["trial"]], trials[1]
    judges = counted(search["validation_samples"], "validation sample")
    told = (
        f"The best of {counted(len(trials), 'trial')} on {judges}: {draw_text(best)}, "
        f"{share(best['validation_top1'])}; the best of many looks too good, the test split will tell."
    )
    if first["state"] == "complete" and best["validation_top1"] <= first["validation_top1"]:
        return [told, "No trial was more accurate than the first."]
    return [told]


def draw_text(trial: Mapping[str, Any]) -> str:
    """Return what a trial of a search tried."""
    return (
        f"{trial['method']}, temperature {trial['temperature']:g}, alpha {trial['alpha']:g}, "
        f"learning rate {trial['learning_rate']:g}"
    )


def apart(points: float) -> str:
    """Return `"0.84 points less"`, or `"0.28 points more"` for points below zero."""
    return f"{abs(points):.2f} points {'more' if points < 0 else 'less'}"


def fact_text(value: object) -> str:
    """Return a fact of a device in words: a mapping or a list item by item; what it does not tell is unavailable."""
    if value is None:
        return "unavailable"
    if isinstance(value, Mapping):
        told = (f"{key} {'none' if item is None else fact_text(item)}" for key, item in value.items())
        return ", ".join(told) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(fact_text, value)) or "none"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def conditions_text(conditions: Mapping[str, Any]) -> str:
    """Return the conditions of a benchmark in a line: clock and temperature before and after, and what disturbed."""
    told = {
        "governor": conditions["governor"],
        "clock": _before_and_after(conditions, "frequencies_mhz", "MHz"),
        "hottest sensor": _before_and_after(conditions, "temperatures_c", "°C"),
        "throttling": conditions.get("throttling", "unavailable"),
        "load average": fact_text(conditions["load_average_before"]),
    }
    if conditions.get("busy_processes"):
        told["busy"] = fact_text(conditions["busy_processes"])
    if conditions.get("power_sensor", "not read") != "not read":
        told["power sensor"] = conditions["power_sensor"]
    limits = conditions.get("limits") or {}
    if limits.get("cpus") is not None:
        told["container"] = f"{limits['cpus']:g} cores"
    return "; ".join(f"{name} {value}" for name, value in told.items())


def _before_and_after(conditions: Mapping[str, Any], key: str, unit: str) -> str:
    """Return the highest of several readings before and after, such as `1500 -> 1400 MHz`."""
    before, after = conditions.get(f"{key}_before"), conditions.get(f"{key}_after")
    if not before or not after:
        return "unavailable"
    return f"{max(before.values()):.4g} -> {max(after.values()):.4g} {unit}"


def energy_text(energy: Mapping[str, Any] | None) -> str:
    """Return what an inference costs above idling, such as `12.3 mJ`."""
    if energy is None:
        return "-"
    value = energy["per_inference_mj"]
    return "not above idle" if value is None else f"{value:.3g} mJ"
