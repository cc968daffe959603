from __future__ import annotations

import platform

import pytest

from edgekd.errors import UsageError
from edgekd.targets import TARGETS, classify, detect_host, find_target, parse_cpuinfo


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", {"avx2"}, "x86-avx2"),
        ("amd64", {"avx2", "avx512_vnni"}, "x86-vnni"),
        ("x86_64", {"avx2", "avx_vnni"}, "x86-vnni"),
        ("aarch64", {"asimd"}, "arm64"),
        ("arm64", {"asimd", "asimddp"}, "arm64-dotprod"),
        ("aarch64", {"asimd", "asimddp", "i8mm"}, "arm64-i8mm"),
    ],
)
def test_a_cpu_is_classified_by_its_flags(machine: str, flags: set[str], expected: str) -> None:
    assert classify(machine, frozenset(flags)).name == expected


def test_an_unknown_machine_is_named() -> None:
    with pytest.raises(UsageError, match="riscv64"):
        classify("riscv64", frozenset())


def test_only_flags_of_every_core_count() -> None:
    text = "processor : 0\nFeatures\t: fp asimd asimddp i8mm\n\nprocessor : 1\nFeatures\t: fp asimd asimddp\n"
    assert parse_cpuinfo(text) == {"fp", "asimd", "asimddp"}
    assert parse_cpuinfo("") == frozenset()


def test_a_target_is_found_by_name_and_a_misspelt_one_is_helped() -> None:
    assert find_target("arm64-dotprod") is TARGETS["arm64-dotprod"]
    assert find_target("auto") == detect_host()
    with pytest.raises(UsageError, match=r"'x86-avx' \(perhaps you meant 'x86-avx2'\?\)"):
        find_target("x86-avx")


def test_the_host_is_of_its_own_machine() -> None:
    assert detect_host().machine == platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")


def test_only_x86_without_vnni_sums_pairs_in_16_bits() -> None:
    assert [name for name, target in TARGETS.items() if target.pairs_saturate] == ["x86-avx2"]
