"""Targets: instruction sets and the facts of their INT8 kernels, and which of them this machine is.

A target decides how a file is quantized, because the same INT8 file gives different answers on different CPUs.
On x86 without VNNI, onnxruntime's kernel multiplies u8 activations by s8 weights with `vpmaddubsw`, which adds
adjacent pairs with int16 saturation (Intel 64 and IA-32 Architectures Software Developer's Manual, PMADDUBSW);
VNNI and ARM's dot product accumulate in 32 bits.
"""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edgekd.errors import UsageError
from edgekd.text import nearest


@dataclass(frozen=True, kw_only=True)
class Target:
    """One instruction set, as far as INT8 inference is concerned.

    Attributes:
        name: What users call it.
        machine: What `platform.machine()` says there, in lower case.
        activations: Integer type of activations.
        weights: Integer type of weights.
        pairs_saturate: Whether the kernel adds adjacent products in int16, so that a file can saturate.
        slow: Type combinations that run on a slow kernel there; never chosen, named in messages.
    """

    name: str
    machine: Literal["x86_64", "aarch64", "wasm32"]
    activations: Literal["uint8", "int8"] = "uint8"
    weights: Literal["uint8", "int8"] = "int8"
    pairs_saturate: bool = False
    slow: tuple[str, ...] = ()


TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for target in (
        Target(name="x86-avx2", machine="x86_64", pairs_saturate=True, slow=("u8u8", "s8s8")),
        Target(name="x86-vnni", machine="x86_64", slow=("u8u8", "s8s8")),
        Target(name="arm64", machine="aarch64"),
        Target(name="arm64-dotprod", machine="aarch64"),
        Target(name="arm64-i8mm", machine="aarch64"),
    )
}


# Of a CPU's flags those that decide which INT8 kernels it has.
INT8_FLAGS: Final = (
    *("avx", "avx2", "avx512f", "avx512bw", "avx_vnni", "avx512_vnni", "amx_int8"),
    *("asimd", "asimddp", "i8mm", "sve", "sme"),
)


def find_target(name: str) -> Target:
    """Return the target called `name`; `"auto"` is the host's own.

    Raises:
        UsageError: no such target.
    """
    if name == "auto":
        return detect_host()
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r}{nearest(name, TARGETS)}; known: auto, {', '.join(TARGETS)}")
    return TARGETS[name]


def detect_host() -> Target:
    """Return the target of the machine this runs on.

    Raises:
        UsageError: neither x86-64 nor 64-bit ARM.
    """
    machine = platform.machine().lower()
    return classify(machine, cpu_flags())


def known_host() -> Target | None:
    """Return the target of the machine this runs on, or None where there is none for it."""
    try:
        return detect_host()
    except UsageError:
        return None


def is_host(target: Target) -> bool:
    """Return whether a target is that of the machine this runs on."""
    return known_host() == target


def classify(machine: str, flags: frozenset[str]) -> Target:
    """Return the target of a CPU from its machine name and its feature flags, as the kernel spells them."""
    if machine in ("x86_64", "amd64"):
        has_vnni = bool(flags & {"avx_vnni", "avx512_vnni", "avxvnni", "avx512vnni"})
        return TARGETS["x86-vnni" if has_vnni else "x86-avx2"]
    if machine in ("aarch64", "arm64"):
        if "i8mm" in flags:
            return TARGETS["arm64-i8mm"]
        return TARGETS["arm64-dotprod" if "asimddp" in flags else "arm64"]
    raise UsageError(f"no INT8 target is known for the machine {machine!r}; name one of: {', '.join(TARGETS)}")


def cpu_flags() -> frozenset[str]:
    """Return this CPU's feature flags in Linux spelling; empty where the system does not tell.

    Without flags the host counts as the oldest CPU of its kind: the careful choice.
    """
    system = platform.system()
    if system == "Linux":
        return parse_cpuinfo(_read_text(Path("/proc/cpuinfo")))
    if system == "Darwin":
        return _darwin_flags()
    return frozenset()


def parse_cpuinfo(text: str) -> frozenset[str]:
    """Return the flags that *every* core in the text of `/proc/cpuinfo` has (big.LITTLE cores may differ)."""
    cores = [
        frozenset(line.partition(":")[2].split())
        for line in text.splitlines()
        if line.partition(":")[0].strip() in ("flags", "Features")
    ]
    return frozenset.intersection(*cores) if cores else frozenset()


def _darwin_flags() -> frozenset[str]:
    names = {
        "hw.optional.arm.FEAT_DotProd": "asimddp",
        "hw.optional.arm.FEAT_I8MM": "i8mm",
        "hw.optional.avx512vnni": "avx512_vnni",
    }
    command = ["/usr/sbin/sysctl", "-i", *names]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    pairs = (line.partition(":") for line in answer.splitlines())
    return frozenset(names[key] for key, _, value in pairs if key in names and value.strip() == "1")


def _read_text(path: Path) -> str:
    return path.read_text(errors="replace") if os.access(path, os.R_OK) else ""
