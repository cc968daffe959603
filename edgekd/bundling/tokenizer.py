"""A WordPiece tokenizer, taken apart into what a few lines of any language can follow: docs/bundle.md, "Text"."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekd.bundling.manifest import Text, TextVector
from edgekd.errors import DataError, ModelError, UsageError, reading, require_extra

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from edgekd.bundling.contents import Contents
    from edgekd.runtime import Model

_LONGEST: Final = 512  # tokens, where the tokenizer sets no limit
_SURROGATES: Final = range(0xD800, 0xE000)
_ROLES: Final = {
    "ids": ("input_ids", "ids"),
    "mask": ("attention_mask", "mask"),
    "types": ("token_type_ids", "types"),
}
_TEXTS: Final = (
    "The quick brown fox jumps over the lazy dog.",
    "Déjà vu: l'été à Zürich, naïve façade -- 100% sûr!",
    "\uff26\uff35\uff2c\uff2c width, ½ ﬁne ŒUVRE Straße İstanbul ǅ Σίσυφος",
    "東京タワー 한국어 и русский العربية हिन्दी ไทย",
    "tabs\tand\nlines\u00a0and\u200bzero width\u0000nul \ufffd e\u0301 emoji 👩‍👩‍👧 $5.00 #tag @you <b>&amp;</b>",
    "unbelievablyantidisestablishmentarianismpneumonoultramicroscopicsilicovolcanoconiosis " + "x" * 120,
    "",
    "   ",
    "word " * 700,
)


@dataclass(frozen=True, kw_only=True)
class Action:
    """What becomes of the characters from `first` to `last`."""

    first: int
    last: int
    action: str


def add_tokenizer(path: Path, model: Model, contents: Contents) -> tuple[Text, list[TextVector]]:
    """Add a tokenizer to a bundle.

    Args:
        path: A `tokenizer.json` as the package tokenizers writes it.
        model: Whose inputs it makes.
        contents: Of the bundle.

    Returns:
        What the manifest says of it, and vectors that test it.

    Raises:
        DataError: it cannot be read.
        UsageError: it is no WordPiece tokenizer of BERT's kind.
        ModelError: the model has no input for token numbers.
        MissingExtraError: the package tokenizers is not installed.
    """
    described, tokenizer = _open(path)
    piece = described["model"]
    longest = (described.get("truncation") or {}).get("max_length", _LONGEST)
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    empty = tokenizer.encode("").ids
    if len(empty) != 2:
        raise UsageError(f"{path}: expected one token before a text and one behind it, found {len(empty)} in all")
    roles = _roles(model)
    words = _words(piece["vocab"], path)
    actions = list(character_actions(tokenizer))
    text = Text(
        vocabulary=contents.add("tokenizer/vocabulary.txt", "".join(f"{word}\n" for word in words).encode()),
        characters=contents.add("tokenizer/characters.txt", _lines(actions).encode()),
        unknown=piece["vocab"][piece["unk_token"]],
        first=empty[0],
        last=empty[1],
        continuation=piece["continuing_subword_prefix"],
        longest_word=piece["max_input_chars_per_word"],
        longest=longest,
        **roles,
    )
    follower = Follower(text, words, actions)
    vectors = []
    for sample in [*_TEXTS, *_random_texts(words)]:
        ids = tokenizer.encode(sample).ids
        if follower.ids(sample) != ids:
            raise UsageError(f"{path}: cannot be bundled: its own answer for {sample[:60]!r} is another one")
        vectors.append(TextVector(text=sample, ids=ids))
    return text, vectors[: len(_TEXTS)]


def _open(path: Path) -> tuple[dict[str, Any], Any]:
    """Return what a `tokenizer.json` says, and the tokenizer that it makes, of BERT's kind."""
    tokenizers = require_extra("text", "tokenizers")
    with reading(path, DataError, "tokenizer"):
        content = path.read_bytes()
    try:
        described = json.loads(content)
        tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        tokenizer.encode_special_tokens = True  # what a text says is text, also "[SEP]"
    except Exception as error:  # the package raises plain Exception
        raise DataError(f"{path}: not a tokenizer.json: {error}") from error
    kinds = [(described.get(part) or {}).get("type") for part in ("model", "normalizer", "pre_tokenizer")]
    if kinds != ["WordPiece", "BertNormalizer", "BertPreTokenizer"]:
        raise UsageError(
            f"{path}: a tokenizer of {', '.join(map(str, kinds))}; only WordPiece with BERT's normalizer and "
            "pre-tokenizer can be bundled. Leave it out, and have the app make the token numbers"
        )
    return described, tokenizer


def _words(numbers: dict[str, int], path: Path) -> list[str]:
    """Return the tokens in the order of their numbers, which is all that the bundle's file of them says."""
    words = sorted(numbers, key=numbers.__getitem__)
    if [numbers[word] for word in words] != list(range(len(words))) or any("\n" in word for word in words):
        raise UsageError(f"{path}: the numbers of its tokens have gaps; it cannot be bundled")
    return words


def _roles(model: Model) -> dict[str, Any]:
    names = {spec.name: spec.dtype for spec in model.inputs}
    roles = {role: next((name for name in known if name in names), None) for role, known in _ROLES.items()}
    unknown = [name for name in names if name not in roles.values()]
    if roles["ids"] is None or unknown:
        wanted = "; ".join(" or ".join(known) for known in _ROLES.values())
        raise ModelError(f"{model.name}: a tokenizer makes the inputs {wanted}; this model takes {', '.join(names)}")
    return roles


def character_actions(tokenizer: Any) -> Iterator[Action]:
    """Yield what a tokenizer makes of each character that it changes, in ranges."""
    current: Action | None = None
    for code in range(0x110000):
        action = None if code in _SURROGATES else _action(tokenizer, chr(code))
        if current is not None and (action != current.action or action.startswith("=")):
            yield current
            current = None
        if action is not None:
            current = Action(first=current.first if current else code, last=code, action=action)
    if current is not None:
        yield current


def _action(tokenizer: Any, letter: str) -> str | None:
    normal = tokenizer.normalizer.normalize_str(letter)
    words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(f"a{normal}b")]
    if normal == "":
        return "drop"
    if normal.isspace() or words == ["a", "b"]:
        return "space"
    inner = normal.strip(" ")
    if words == ["a", inner, "b"]:
        if inner != letter:
            return "= 20 " + " ".join(f"{ord(one):X}" for one in inner) + " 20"
        return "alone"
    if words == [f"a{normal}b"]:
        return None if normal == letter else "= " + " ".join(f"{ord(one):X}" for one in normal)
    spaced = " ".join(words)[1:-1]
    return "= " + " ".join(f"{ord(one):X}" for one in spaced)


def _lines(actions: Iterable[Action]) -> str:
    return "".join(f"{one.first:X}-{one.last:X} {one.action}\n" for one in actions)


def _random_texts(words: list[str]) -> Iterator[str]:
    """Yield texts of all of Unicode, and of the vocabulary's own pieces."""
    import random

    chance = random.Random(0)  # noqa: S311 - nothing here is secret
    for _ in range(200):
        letters = [
            chr(chance.choice([chance.randrange(0x20, 0x250), chance.randrange(0x20, 0xD800)])) for _ in range(40)
        ]
        pieces = [chance.choice(words).removeprefix("##") for _ in range(12)]
        yield "".join(letters) + " ".join(pieces) + chr(chance.randrange(0xE000, 0x110000))


class Follower:
    """Does what docs/bundle.md says of texts, to compare it with the tokenizer itself."""

    def __init__(self, text: Text, words: list[str], actions: Iterable[Action]) -> None:
        """Keep the tables."""
        self._text = text
        self._numbers = {word: number for number, word in enumerate(words)}
        self._actions = {code: one.action for one in actions for code in range(one.first, one.last + 1)}

    def ids(self, text: str) -> list[int]:
        """Return the token numbers of a text."""
        found = [number for word in self._replaced(text).split(" ") if word for number in self._pieces(word)]
        return [self._text.first, *found[: self._text.longest - 2], self._text.last]

    def _replaced(self, text: str) -> str:
        return "".join(self._becomes(letter) for letter in text)

    def _becomes(self, letter: str) -> str:
        action = self._actions.get(ord(letter))
        if action is None:
            return letter
        fixed = {"drop": "", "space": " ", "alone": f" {letter} "}
        return fixed[action] if action in fixed else "".join(chr(int(code, 16)) for code in action[2:].split())

    def _pieces(self, word: str) -> list[int]:
        found: list[int] = []
        begin = 0
        if len(word) > self._text.longest_word:
            return [self._text.unknown]
        while begin < len(word):
            prefix = self._text.continuation if begin else ""
            ends = range(len(word), begin, -1)
            end = next((end for end in ends if prefix + word[begin:end] in self._numbers), None)
            if end is None:
                return [self._text.unknown]
            found.append(self._numbers[prefix + word[begin:end]])
            begin = end
        return found
