"""What `edgekd doctor` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekd.cli import ui
from edgekd.text import bytes_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def diagnosis(content: Mapping[str, Any]) -> None:
    """Print what `doctor` found of the machine (a line, where files were asked about) and of each file."""
    told = diagnosis_facts(content)
    if not any(content[kind] for kind in ("models", "libraries", "bundles")):
        ui.facts(told)
    else:
        ui.say(f"onnxruntime {told['onnxruntime']} on {told['INT8 target']} ({told['CPU']})")
    _warnings(content["findings"])
    for bundle in content["bundles"]:
        ui.say(f"{bundle['path']}: {_bundle_words(bundle)}")
        _warnings(bundle["findings"])
    for model in content["models"]:
        least = "" if model["least_onnxruntime"] is None else f", onnxruntime {model['least_onnxruntime']} or later"
        known = "" if model["opset"] is None else f"opset {model['opset']}, IR {model['ir_version']}{least}; "
        ui.say(f"{model['path']}: {known}{model['verdict']}")
        _warnings(model["findings"])
    for library in content["libraries"]:
        where = library["path"] if library["member"] is None else f"{library['path']}: {library['member']}"
        if library["alignment"] is not None:
            machine = library["machine"] or "unknown machine"
            ui.say(f"{where}: {machine}, {library['bits']} bits, segments aligned to {library['alignment']:,} bytes")
        _warnings(library["findings"])


def _bundle_words(bundle: Mapping[str, Any]) -> str:
    """Return what was found of a bundle; its errors are said at the end."""
    if bundle["name"] is None:
        return "cannot be used"
    words = f"whole, {'signed' if bundle['signed'] else 'not signed'}"
    if bundle["model"] is not None:
        words += f"; this CPU gets {bundle['model']}"
    for one in bundle["differences"]:
        apart = "NaN" if one["apart"] is None else f"{one['apart']:.3g}"
        words += f"; {one['output']} differs by {apart}, {one['tolerance']:.3g} is allowed"
    return words


def _warnings(findings: Sequence[Mapping[str, Any]]) -> None:
    """Print the warnings among the findings of `doctor`; its errors end the command, and are said then."""
    for finding in findings:
        if finding["severity"] == "warning":
            ui.say(f"  warning: {'. '.join(filter(None, (finding['message'], finding['advice'])))}")


def diagnosis_facts(content: Mapping[str, Any]) -> dict[str, str]:
    """Return what `doctor` found of machine and installation, by name."""
    machine, limits = content["machine"], content["machine"]["limits"]
    cpus = "none" if limits["cpus"] is None else f"{limits['cpus']:g} cores"
    memory = "none" if limits["memory_bytes"] is None else bytes_text(limits["memory_bytes"])
    telemetry = content["telemetry"]
    told = {
        "system": f"{machine['system']}, {machine['machine']}",
        "CPU": machine["cpu_model"],
        "INT8 target": machine["target"] or "none: no INT8 kernels are known for this machine",
        "CPU flags": " ".join(machine["flags"]) or "unavailable",
        "cores": f"{machine['logical_cores']}, {machine['usable_cores'] or 'all'} of them for this process",
        "memory": f"{bytes_text(machine['memory_bytes'])}, {bytes_text(machine['memory_available_bytes'])} free",
        "container limits": f"CPU {cpus}, memory {memory}",
        "telemetry": f"{'off' if telemetry['off'] else 'ON'} ({telemetry['variable']}={telemetry['value'] or ''})",
    }
    told |= {name: version or "not installed" for name, version in content["versions"].items()}
    for extra, found in content["extras"].items():
        missing = ", ".join(found["missing"])
        told[f"extra {extra}"] = f"missing {missing}: {found['install']}" if missing else "installed"
    return told
