"""Texts in the C++ package of a bundle."""

from __future__ import annotations

import hashlib
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest

from tests.bundling.conftest import manifest, rewrite, text_net, word_piece
from tests.bundling.cpp_programs import ask, library, lines, run
from tests.bundling.test_bundle import bundle_of
from tests.bundling.test_tokenizer import texts

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.xdist_group("cpp")  # one worker compiles


@pytest.fixture
def text_app(text_bundle: Path, tmp_path: Path) -> Path:
    """Return a copy of the bundle, to be changed."""
    return Path(shutil.copytree(text_bundle, tmp_path / "app"))


def record(app: Path, path: Path) -> None:
    """Have the manifest list a file as it is now."""
    content = path.read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    name = path.relative_to(app).as_posix()
    rewrite(app, lambda data: next(file for file in data["files"] if file["path"] == name).update(entry))


def answers(probes: Path, app: Path, given: list[bytes]) -> list[list[float]]:
    """Return each text's token numbers and the model's answer."""
    packed = b"".join(struct.pack("I", len(text)) + text for text in given)
    return [[float(number) for number in line.split()] for line in ask(probes, "texts", app, library(), given=packed)]


@pytest.mark.parametrize("lowercase", [True, False])
def test_texts_become_the_tokenizers_own_numbers(lowercase: bool, probes: Path, tmp_path: Path) -> None:
    tokenizer = word_piece(lowercase=lowercase)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    onnx.save(text_net(), tmp_path / "net.onnx")
    app = bundle_of([tmp_path / "net.onnx"], tmp_path / "app", tokenizer=tmp_path / "tokenizer.json", devices=[])
    tokenizer.encode_special_tokens = True
    expected = [tokenizer.encode(text).ids for text in texts()]
    found = answers(probes, app, [text.encode() for text in texts()])
    assert found == [[*ids, sum(ids)] for ids in expected]


def test_malformed_bytes_count_as_replacement_characters(probes: Path, text_app: Path) -> None:
    path = text_app / "tokenizer/characters.txt"
    path.write_text("FFFD-FFFD = 20 61 20\n")  # each becomes the word "a"
    record(text_app, path)
    malformed = (
        *(
            b"\xff",
            b"\xc0\xaf",
            b"\xc3",
            b"\xe2\x82",
            b"\xe2\x82a",
            b"\xe0\x80\x80",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80",
        ),
        *(b"\xf0\x9f\x98", b"\xf0\x80\x80\x80", b"\x80\x80", b"\xf5\x80", b"\xc3\xc3\xa9", b"dog\xf1\x80\x80\xe1"),
    )
    decoded = [text.decode(errors="replace").encode() for text in malformed]
    assert answers(probes, text_app, list(malformed)) == answers(probes, text_app, decoded)
    assert answers(probes, text_app, [b"\xe2\x82a"]) == answers(probes, text_app, [b"a a"])


def test_the_self_test_counts_texts(probes: Path, text_bundle: Path) -> None:
    said = ask(probes, "selftest", text_bundle, library())
    count = len(manifest(text_bundle)["preparation"]["texts"])
    assert said[3] == f"preparation: {count} of {count} vectors are exact"
    assert said[-1] == "PASS"


def test_a_changed_table_fails_the_self_test(programs: Path, text_app: Path) -> None:
    path = text_app / "tokenizer/characters.txt"
    path.write_text(path.read_text().replace("54-54 = 74", "54-54 = 73"))
    record(text_app, path)
    ran = run(programs / "selftest", text_app, library())
    assert (ran.returncode, lines(ran)[-1]) == (1, "FAIL: preparation: text 0 becomes another input here")


@pytest.mark.parametrize(
    "table", ["41 drop", "41-42", "42-41 drop", "41-42 away", "41-41 drop it", "41-41 = G", "41-41 = D800"]
)
def test_a_table_of_another_form_is_refused(table: str, programs: Path, text_app: Path) -> None:
    path = text_app / "tokenizer/characters.txt"
    path.write_text(f"20-40 alone\n{table}\n")
    record(text_app, path)
    told = "FAIL: tokenizer/characters.txt: line 2 is not as edgekd.bundle/1 has it"
    assert lines(run(programs / "selftest", text_app, library()))[-1] == told


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("text", lambda content: content.pop("text")),
        ("text", lambda content: content.update(text=None)),
        ("text", lambda content: content.update(text="WordPiece")),
        ("text.first", lambda content: content["text"].update(first=-1)),
        ("text.longest", lambda content: content["text"].update(longest=1)),
        ("text.longest_word", lambda content: content["text"].update(longest_word="100")),
        ("text.ids", lambda content: content["text"].update(ids=None)),
        ("text.mask", lambda content: content["text"].update(mask=1)),
        ("text.types", lambda content: content["text"].pop("types")),
        ("preparation.texts", lambda content: content["preparation"].pop("texts")),
        ("preparation.texts.0.ids", lambda content: content["preparation"]["texts"][0].update(ids="1")),
        ("preparation.texts.0.ids.1", lambda content: content["preparation"]["texts"][0].update(ids=[1, 0.5])),
    ],
)
def test_a_manifest_of_another_form_is_refused(
    where: str, change: Callable[[dict[str, Any]], object], probes: Path, text_app: Path
) -> None:
    rewrite(text_app, change)
    assert ask(probes, "manifests", text_app) == [f"edgekd-bundle.json: {where} is not as edgekd.bundle/1 has it"]


def test_a_bundle_without_a_tokenizer_takes_no_text(probes: Path, whole_bundle: Path) -> None:
    ran = run(probes / "probe", "texts", whole_bundle, library(), given=bytes(4))
    assert (ran.returncode, lines(ran)) == (1, ["this bundle's model does not take a text; use run()"])
