"""A tokenizer taken apart, against the tokenizer itself."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgekd.errors import DataError, ModelError, UsageError
from tests.bundling.conftest import TEXT_WORDS, text_net, word_piece
from tests.bundling.test_bundle import bundle_of, manifest
from tests.bundling.test_python_package import run, use


@pytest.fixture(scope="module")
def text_app(text_bundle: Path) -> Path:
    return text_bundle


def texts() -> list[str]:
    """Return texts of all of Unicode and of the vocabulary, long and short ones."""
    chance = random.Random(1)
    found = ["", " ", "[SEP] [CLS] [MASK]", "a" * 150, "running " * 40, "\u0000\ufffd", "é e\u0301 \u017f ß İ ǅ ﬁ"]
    for _ in range(300):
        codes = [chance.randrange(0x20, chance.choice([0x80, 0x250, 0xD800])) for _ in range(chance.randrange(30))]
        words = [chance.choice(TEXT_WORDS).removeprefix("##") for _ in range(chance.randrange(8))]
        found.append("".join(map(chr, codes)) + " ".join(words) + chr(chance.randrange(0xE000, 0x110000)))
    return found


@pytest.mark.parametrize("lowercase", [True, False])
def test_texts_become_the_tokenizers_own_numbers(lowercase: bool, tmp_path: Path) -> None:
    tokenizer = word_piece(lowercase=lowercase)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    onnx.save(text_net(), tmp_path / "net.onnx")
    app = bundle_of([tmp_path / "net.onnx"], tmp_path / "app", tokenizer=tmp_path / "tokenizer.json", devices=[])
    (tmp_path / "texts.json").write_text(json.dumps(texts()))
    code = f"texts = json.load(open({str(tmp_path / 'texts.json')!r}))\n"
    code += "print(json.dumps([model.prepare_text(text)['input_ids'].tolist() for text in texts]))"
    tokenizer.encode_special_tokens = True
    assert use(app, code) == [[tokenizer.encode(text).ids] for text in texts()]


def test_the_manifest_says_how(text_app: Path) -> None:
    found = manifest(text_app)["text"]
    numbers = {word: number for number, word in enumerate(TEXT_WORDS)}
    assert found == {
        "vocabulary": "tokenizer/vocabulary.txt",
        "characters": "tokenizer/characters.txt",
        "unknown": numbers["[UNK]"],
        "first": numbers["[CLS]"],
        "last": numbers["[SEP]"],
        "continuation": "##",
        "longest_word": 100,
        "longest": 16,
        "ids": "input_ids",
        "mask": "attention_mask",
        "types": None,
    }
    assert (text_app / found["vocabulary"]).read_text().splitlines() == list(TEXT_WORDS)
    assert len(manifest(text_app)["preparation"]["texts"]) == 9


def test_an_answer_to_a_text(text_app: Path) -> None:
    code = "print(json.dumps({k: v.tolist() for k, v in model.run(model.prepare_text('Running dogs')).items()}))"
    numbers = {word: number for number, word in enumerate(TEXT_WORDS)}
    ids = [numbers[word] for word in ("[CLS]", "run", "##ning", "dog", "##s", "[SEP]")]
    assert use(text_app, code) == {"total": [[float(sum(ids))]]}


def test_lone_surrogates_count_as_replacement_characters(text_app: Path) -> None:
    code = "print(json.dumps([model.prepare_text(t)['input_ids'].tolist() for t in ('dog\\ud800s', 'dog\\ufffds')]))"
    first, second = use(text_app, code)
    assert first == second


def test_a_changed_table_fails_the_self_test(text_app: Path, tmp_path: Path) -> None:
    import hashlib
    import shutil

    app = Path(shutil.copytree(text_app, tmp_path / "app"))
    path = app / "tokenizer/characters.txt"
    path.write_text(path.read_text().replace("54-54 = 74", "54-54 = 73"))
    content = manifest(app)
    for entry in content["files"]:
        if entry["path"] == "tokenizer/characters.txt":
            entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (app / "edgekd-bundle.json").write_text(json.dumps(content))
    ran = run([str(app / "python" / "selftest.py")], app)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (
        1,
        "FAIL: preparation: text 0 becomes another input here",
    )


def save_tokenizer(path: Path, change: Any) -> Path:
    content = json.loads(word_piece().to_str())
    change(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content.update(normalizer={"type": "NFC"}), "only WordPiece with BERT's"),
        (lambda content: content.update(pre_tokenizer=None), "only WordPiece with BERT's"),
        (lambda content: content.update(post_processor=None), "expected one token before a text and one behind"),
    ],
)
def test_other_tokenizers_are_refused(change: Any, told: str, tmp_path: Path) -> None:
    path = save_tokenizer(tmp_path / "tokenizer.json", change)
    onnx.save(text_net(), tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=told):
        bundle_of([tmp_path / "net.onnx"], tmp_path / "app", tokenizer=path)


def test_what_is_no_tokenizer_is_refused(models: list[Path], tmp_path: Path) -> None:
    onnx.save(text_net(), tmp_path / "net.onnx")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"not a tokenizer\.json"):
        bundle_of([tmp_path / "net.onnx"], tmp_path / "app", tokenizer=tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match="no such tokenizer"):
        bundle_of([tmp_path / "net.onnx"], tmp_path / "app", tokenizer=tmp_path / "missing.json")
    word_piece().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="a tokenizer makes the inputs input_ids or ids"):
        bundle_of(models[2:], tmp_path / "app", tokenizer=tmp_path / "tokenizer.json")


def test_a_bundle_without_a_tokenizer_takes_no_text(whole_bundle: Path) -> None:
    ran = run(["-c", "import edgekd_bundle as e; e.open_bundle('..').prepare_text('a')"], whole_bundle / "python")
    assert "this bundle's model does not take a text; use run()" in ran.stderr.splitlines()[-1]
