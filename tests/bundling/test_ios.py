"""The Swift package of a bundle: no compiler is at hand, so it is parsed, and compared with what it has to agree with."""

from __future__ import annotations

import ast
import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import tree_sitter_swift
from pydantic import BaseModel
from tree_sitter import Language, Node, Parser

from edgekd.bundling import manifest as forms
from edgekd.bundling.manifest import MANIFEST, SCHEMA
from edgekd.bundling.packages import package_files

FILES = {path: content.decode() for path, content in package_files("ios").items()}
SWIFT = {path: text for path, text in FILES.items() if path.endswith(".swift")}
SOURCES = {Path(path).stem: text for path, text in SWIFT.items() if path.startswith("Sources/")}
PYTHON = {path: content.decode() for path, content in package_files("python").items() if path.endswith(".py")}
PARSER = Parser(Language(tree_sitter_swift.language()))
STRUCTS = {
    "Manifest": forms.Manifest,
    "FileRecord": forms.File,
    "RuntimeNeeds": forms.Runtime,
    "Versions": forms.Versions,
    "NamedValue": forms.Value,
    "StoredTensor": forms.Tensor,
    "ExpectedOutput": forms.Output,
    "ImageContract": forms.Image,
    "TextContract": forms.Text,
    "SessionSettings": forms.Session,
    "Variant": forms.Variant,
    "Expected": forms.Expected,
    "Choice": forms.Choice,
    "Golden": forms.Golden,
    "ImageVector": forms.ImageVector,
    "TextVector": forms.TextVector,
    "Preparation": forms.Preparation,
}
NO_SWITCH = "enable_cpu_mem_arena"  # onnxruntime-objc has none


def nodes(text: str, kind: str) -> list[Node]:
    """Return the nodes of a kind in a Swift source."""
    waiting, found = [PARSER.parse(text.encode()).root_node], []
    while waiting:
        node = waiting.pop()
        waiting += node.children
        if node.type == kind:
            found.append(node)
    return found


def is_sound(text: str) -> bool:
    return not PARSER.parse(text.encode()).root_node.has_error


@pytest.mark.parametrize("path", SWIFT)
def test_every_file_parses(path: str) -> None:
    assert is_sound(SWIFT[path])


@pytest.mark.parametrize("path", SWIFT)
def test_a_file_that_lacks_a_bracket_does_not_parse(path: str) -> None:
    begin, bracket, rest = SWIFT[path].rpartition(")")
    assert bracket
    assert not is_sound(begin + rest)


def decoded() -> dict[str, dict[str, str]]:
    """Return the Swift type of each key by struct, as the manifest spells the key."""
    found = {}
    for name, body in re.findall(
        r"^struct (\w+): Decodable \{\n(.*?)^\}", SOURCES["Manifest"], re.MULTILINE | re.DOTALL
    ):
        keys = re.search(r"enum CodingKeys: String, CodingKey \{(.*?)\}", body, re.DOTALL)
        if keys is None:
            continue
        spelt = {}
        for case in re.findall(r"case (.*)", keys[1]):
            for entry in case.split(", "):
                member, _, given = entry.partition(" = ")
                spelt[member] = given.strip('"') or member
        kinds = dict(re.findall(r"^    let (\w+): (.+)$", body, re.MULTILINE))
        assert kinds.keys() == spelt.keys(), name
        found[name] = {spelt[member]: kind for member, kind in kinds.items()}
    return found


def raw_values(name: str) -> set[str]:
    body = re.search(rf"enum {name}: String, Decodable \{{(.*?)\}}", SOURCES["Manifest"], re.DOTALL)
    assert body is not None, name
    return set(re.findall(r'case \w+ = "(.*)"', body[1]))


def fits(swift: str, python: Any) -> bool:
    """Whether a Swift type decodes what a Python type has in JSON."""
    origin, inner = get_origin(python), get_args(python)
    if origin is Annotated:
        return fits(swift, inner[0])
    if origin in (Union, types.UnionType):
        return swift.endswith("?") and fits(swift[:-1], inner[0]) and inner[1] is type(None)
    if origin is list:
        return swift[0] + swift[-1] == "[]" and fits(swift[1:-1], inner[0])
    if origin is dict:
        return swift.startswith("[String: ") and fits(swift[9:-1], inner[1])
    if origin is Literal:
        return swift == "String" or raw_values(swift) == set(inner)
    if issubclass(python, BaseModel):
        return STRUCTS[swift] is python
    return swift in {str: ["String"], int: ["Int", "Int32", "Int64"], float: ["Double"], bool: ["Bool"]}[python]


@pytest.mark.parametrize("name", STRUCTS)
def test_what_is_decoded_is_what_the_manifest_has(name: str) -> None:
    fields = {field.alias or key: field for key, field in STRUCTS[name].model_fields.items()}
    kinds = decoded()[name]
    assert kinds
    for key, kind in kinds.items():
        assert kind == "PlainPath" or fits(kind, fields[key].annotation), key
        assert (kind == "PlainPath") == (forms.require_plain in [getattr(m, "func", 0) for m in fields[key].metadata])


def test_nothing_but_these_is_decoded() -> None:
    assert decoded().keys() == STRUCTS.keys()


def test_a_key_that_may_be_null_has_to_be_there() -> None:
    assert {key for key, kind in decoded()["Manifest"].items() if kind.endswith("?")} == {"image", "text"}
    for kind, key in (("ImageContract", "image"), ("TextContract", "text")):
        assert f"{key} = try keys.decode({kind}?.self, forKey: .{key})" in SOURCES["Manifest"]


def test_every_key_that_the_python_package_reads_is_read() -> None:
    known = {field.alias or key for form in STRUCTS.values() for key, field in form.model_fields.items()}
    read = set()
    for text in PYTHON.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Subscript):
                read |= {node.slice.value} if isinstance(node.slice, ast.Constant) else set()
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
                read |= {given.value for given in node.args if isinstance(given, ast.Constant)}
    read &= known
    assert len(read) > 30
    assert read - {key for kinds in decoded().values() for key in kinds} == {NO_SWITCH}
    assert NO_SWITCH in FILES["README.md"]


def swift_literals() -> set[str]:
    """Return the literals of the sources, with `*` for what is put in."""
    found = set()
    for text in SOURCES.values():
        for node in nodes(text, "line_string_literal"):
            assert node.text is not None
            literal = node.text.decode()[1:-1]
            literal = literal.replace(r"\(manifestName)", MANIFEST).replace(r"\(manifestSchema)", SCHEMA)
            found.add(re.sub(r"\\\((?:[^()]|\([^()]*\))*\)", "*", literal))
    return found


def python_messages() -> set[str]:
    """Return what the Python package and its self-test can say, with `*` for what is put in."""
    found = set()
    for text in PYTHON.values():
        for node in ast.walk(ast.parse(text)):
            says = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if says and node.func.id in ("BundleError", "print"):
                found |= {_plain(given) for given in node.args}
    return found


def _plain(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if not isinstance(node, ast.JoinedStr):
        return "*"
    parts = []
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            constant = part.value.id if isinstance(part.value, ast.Name) else ""
            parts.append({"MANIFEST": MANIFEST, "SCHEMA": SCHEMA}.get(constant, "*"))
        else:
            assert isinstance(part, ast.Constant)
            parts.append(part.value)
    return "".join(parts)


def test_what_is_wrong_is_said_in_the_words_of_the_document() -> None:
    document = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text()
    table = document.split("| what | message |")[1].split("\n\n")[0]
    messages = [text for line in table.splitlines()[2:] for text in re.findall("`(.*?)`", line.split("|")[2])]
    assert len(messages) >= 13
    placeholders = r"\b(WHY|FOUND|WHERE|PATH|N|M|TARGET|LEAST|OUTPUT|TOLERANCE|SHAPE)\b"
    literals = swift_literals()
    assert "golden: *" in literals
    said = literals | {f"golden: {literal}" for literal in literals}
    assert {re.sub(placeholders, "*", message) for message in messages} - said == set()


def test_it_says_what_the_python_package_says() -> None:
    alone = {"a signature cannot be checked here: pip install cryptography"}
    spoken = {message for message in python_messages() if not message.startswith(f"{MANIFEST}: variants")}
    assert len(spoken) > 15
    assert spoken - swift_literals() - {"*"} == alone


def test_the_packages_own_paths_exist() -> None:
    paths = re.findall(r'path: "(.*)"', FILES["Package.swift"])
    assert paths == ["Sources/EdgekdBundle", "Tests/EdgekdBundleTests"]
    for path in paths:
        assert any(name.startswith(f"{path}/") for name in SWIFT)
    assert FILES["Package.swift"].startswith("// swift-tools-version:5.9\n")  # has to be the first line
    tests = next(name for name in SWIFT if name.endswith("SelfTests.swift"))
    climbed = re.search(r"for _ in 0\.\.<(\d)", SWIFT[tests])
    assert climbed is not None
    assert int(climbed[1]) == len(Path("ios", tests).parts)  # from the file to the bundle's folder
