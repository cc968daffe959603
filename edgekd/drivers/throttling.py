"""Whether a device's processor was slowed down: what Linux, a Raspberry Pi's firmware and Android say of it.

Sources: the kernel's `Documentation/ABI/testing/sysfs-class-thermal` (cooling devices) and `sysfs-devices-system-cpu`
(thermal_throttle), `Documentation/admin-guide/cgroup-v2.rst` (cpu.stat); Raspberry Pi's documentation of
`vcgencmd get_throttled`; Android's `ThermalStatusCode` (NONE to SHUTDOWN).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_PI_BITS: Final = {
    0: "under-voltage",
    1: "CPU frequency capped",
    2: "throttled by the firmware",
    3: "soft temperature limit",
}
_PI_SINCE_START: Final = 16  # the same four, remembered since the start
# Types of cooling devices that slow down a CPU: of cpufreq (older and newer kernels) and of ACPI.
_CPU_COOLING: Final = ("thermal-cpufreq-", "cpufreq-", "Processor")
_ANDROID_STATUS: Final = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_QUOTA: Final = "the container's CPU quota was used up"


@dataclass(frozen=True, kw_only=True)
class Throttling:
    """What slows a device's processor down.

    Attributes:
        now: What does at this moment, in words.
        counts: How often each thing has happened since the device started. Of a flag that only says "has happened"
            this is 0 or 1.
        sensed: Whether the device has a sensor of its processor's clock or heat. A container's quota is none.
    """

    now: tuple[str, ...]
    counts: Mapping[str, int]
    sensed: bool = True

    def until(self, later: Throttling) -> tuple[str, ...]:
        """Return what slowed the processor down between this moment and a later one, as far as is known."""
        grown = {name for name, count in later.counts.items() if count > self.counts.get(name, 0)}
        return tuple(sorted({*self.now, *later.now, *grown}))


def throttling_of(found: Mapping[str, Any]) -> Throttling | None:
    """Return what a snapshot says of throttling, or None if it says nothing."""
    files: Mapping[str, str] = found["files"]
    now, counts = _firmware(files, found.get("vcgencmd"))
    sensed = bool(counts)
    for name, text in files.items():
        folder, _, leaf = name.rpartition("/")
        number = text.strip()
        if leaf.endswith("_throttle_count") and number.isdecimal():
            sensed = True
            kind = f"{leaf.partition('_')[0]} too hot"
            counts[kind] = counts.get(kind, 0) + int(number)
        elif leaf == "cur_state" and files.get(f"{folder}/type", "").startswith(_CPU_COOLING):
            sensed = True
            now += [f"cooled by {files[f'{folder}/type'].strip()}"] * (number.isdecimal() and int(number) > 0)
        elif leaf == "cpu.stat" and (stopped := re.search(r"^nr_throttled (\d+)", text, re.MULTILINE)):
            counts[_QUOTA] = counts.get(_QUOTA, 0) + int(stopped[1])
    status: int | None = found.get("android_thermal_status")
    if status is not None:
        sensed = True
        word = _ANDROID_STATUS[status] if status < len(_ANDROID_STATUS) else str(status)
        now += [f"Android's thermal status is {word}"] * (status > 0)
    return Throttling(now=tuple(sorted(set(now))), counts=counts, sensed=sensed) if sensed or counts else None


def _firmware(files: Mapping[str, str], vcgencmd: str | None) -> tuple[list[str], dict[str, int]]:
    """Return what a Raspberry Pi's firmware says of this moment, and of the time since the start."""
    texts = [text for name, text in files.items() if name.endswith("/get_throttled")]
    match = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]+)", (texts or [vcgencmd or ""])[0].strip())
    if match is None:
        return [], {}
    bits = int(match[1], 16)
    now = [name for bit, name in _PI_BITS.items() if bits >> bit & 1]
    return now, {name: bits >> bit + _PI_SINCE_START & 1 for bit, name in _PI_BITS.items()}
