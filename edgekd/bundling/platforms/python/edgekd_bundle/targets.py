# SPDX-License-Identifier: Apache-2.0
"""Which instruction set this CPU has, as far as 8-bit kernels are concerned."""

from __future__ import annotations

import platform

_DARWIN = {
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.avx512vnni": "avx512_vnni",
}


def host_target() -> str:
    """Return the name of this CPU's target: the oldest of its kind where the system does not tell its flags."""
    machine, flags = platform.machine().lower(), _flags()
    if machine in ("x86_64", "amd64"):
        return "x86-vnni" if flags & {"avx_vnni", "avx512_vnni"} else "x86-avx2"
    if machine in ("aarch64", "arm64"):
        return "arm64-i8mm" if "i8mm" in flags else "arm64-dotprod" if "asimddp" in flags else "arm64"
    return machine


def _flags() -> frozenset[str]:
    system = platform.system()
    if system == "Linux":
        return _common_flags()
    if system == "Darwin":
        import subprocess

        command = ["/usr/sbin/sysctl", "-i", *_DARWIN]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            return frozenset()
        pairs = (line.partition(":") for line in answer.splitlines())
        return frozenset(_DARWIN[key] for key, _, value in pairs if key in _DARWIN and value.strip() == "1")
    return frozenset()


def _common_flags() -> frozenset[str]:
    """Return the flags that every core has: big and little ones may differ."""
    try:
        with open("/proc/cpuinfo", errors="replace") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return frozenset()
    pairs = [(line.partition(":")[0].strip(), line.partition(":")[2]) for line in lines]
    cores = [frozenset(flags.split()) for key, flags in pairs if key in ("flags", "Features")]
    return frozenset.intersection(*cores) if cores else frozenset()
