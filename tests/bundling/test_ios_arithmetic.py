"""The Swift package's arithmetic, put into Python line by line, as no Swift runs here: it is written for that."""

from __future__ import annotations

import hashlib
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekd.bundling.description import image_of
from edgekd.bundling.packages import package_files
from edgekd.bundling.preparation import prepared
from edgekd.data import Contract
from tests.bundling.conftest import contracts

SWIFT = package_files("ios")["Sources/EdgekdBundle/Images.swift"].decode()
# In this order; each is a spelling that has the same meaning in both languages.
SPELLINGS = [
    (r"//.*", ""),
    (r"\b(?:let|var) (\w+): [^=]+ = ", r"\1 = "),
    (r"\[\w+\]\(repeating: 0, count: (.*)\)$", r"[0] * (\1)"),
    (r"stride\(from: (\w+), to: (.*), by: (\w+)\)", r"range(\1, \2, \3)"),
    (r"\[(\w+)\.\.<(.*)\]", r"[\1:\2]"),
    (r"(\w+)\.\.<(.*) \{$", r"range(\1, \2) {"),
    (r"append\(contentsOf: ", "extend("),
    (r"\((\(.*?\))\.rounded\(\.toNearestOrEven\)\)", r"(round(\1))"),
    (r"([\w.]+)\.count\b", r"len(\1)"),
    (r"(\w+): ", r"\1="),
    (r" == \.(\w+)", r' == "\1"'),
    (r"= (.*) \? (.*?) : (.*)", r"= \2 if \1 else \3"),
    (r" && ", " and "),
    (r" / 2$", " // 2"),
    (r"\bU?Int\d*\(", "int("),
    (r"\bDouble\(", "float("),
    (r"\bFloat\(", "float32("),
    (r"\S+\.reserveCapacity\(.*", "pass"),
]


def translate(function: str) -> str:
    """Return a Swift function in Python."""
    found = re.search(
        rf"^(?:private )?func {function}\((.*?)\) -> [^{{]* \{{\n(.*?)^\}}", SWIFT, re.MULTILINE | re.DOTALL
    )
    assert found is not None
    names = [parameter.split(":")[0].split()[-1] for parameter in found[1].split(", ")]
    lines = [f"def {function}({', '.join(names)}):"]
    for line in found[2].splitlines():
        for swift, python in SPELLINGS:
            line = re.sub(swift, python, line)
        if line.strip() != "}":
            lines.append(re.sub(r"\} else|(?<=\S) \{$", lambda mark: ":" if "{" in mark[0] else "else", line))
    return "\n".join(lines)


def swift_images() -> dict[str, Any]:
    """Return the functions of Images.swift by name."""
    functions: dict[str, Any] = {
        "Pixels": SimpleNamespace,
        "Filter": SimpleNamespace,
        "Tensor": lambda values, shape: np.asarray(values, dtype=np.float32).reshape(shape),
        "float32": np.float32,
        "bits": int(re.findall(r"let bits: Int = (\d+)", SWIFT)[0]),
        "a": float(re.findall(r"let a: Double = (\S+)", SWIFT)[0]),
    }
    for name in ("keys", "weights", "resize", "cover", "gray", "prepareImage"):
        exec(translate(name), functions)
    return functions


@pytest.mark.parametrize("contract", contracts(), ids=lambda one: f"{one.layout} {one.colour} {one.shape}")
@pytest.mark.parametrize("size", [(20, 24), (47, 33), (9, 61), (21, 24), (1, 1)])
def test_images_become_the_same_input_to_the_bit(contract: Contract, size: tuple[int, int]) -> None:
    functions = swift_images()
    image = image_of(contract)
    assert image is not None
    pixels = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    wanted = prepared(pixels, contract)
    given = SimpleNamespace(height=size[0], width=size[1], channels=3, values=pixels.ravel().tolist())
    described = SimpleNamespace(
        **{**image.model_dump(), "colour": image.colour.lower(), "layout": image.layout.lower()}
    )
    found = functions["prepareImage"](given, described)
    assert hashlib.sha256(found.tobytes()).digest() == hashlib.sha256(np.ascontiguousarray(wanted).tobytes()).digest()
