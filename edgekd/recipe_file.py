"""Recipes as files: TOML becomes typed settings.

Whatever is wrong with a recipe is said in one message that names the file, the key, the value found, what is allowed
and, for an unknown key, the nearest known one.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ValidationError

from edgekd.data_settings import DigitsData, IdxData, ImageFolderData, NpzData, TransferSettings
from edgekd.errors import RecipeError, reading
from edgekd.recipe import Recipe
from edgekd.settings import PATH_KEYS, sentence
from edgekd.terms import KINDS
from edgekd.text import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pydantic_core import ErrorDetails


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: The TOML file. Paths in it are relative to its folder.
        overrides: `"section.key=value"` each, value in TOML; what is no TOML value is taken as text. Paths in
            them are relative to the current folder.

    Raises:
        RecipeError: the file is missing, is no TOML, or asks for something impossible.
    """
    path = Path(path)
    with reading(path, RecipeError, "recipe"):
        text = path.read_bytes()
    try:
        document = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not a TOML file: {error}") from error
    _resolve_paths(document, path.resolve().parent, str(path))
    for override in overrides:
        _override(document, override)
    recipe = parse_recipe(document, str(path))
    recipe._folder = path.resolve().parent
    return recipe


def parse_recipe(document: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Check a recipe given as data (`where` names it in messages). See `load_recipe`."""
    problems = list(_not_plain(document))
    if problems:
        raise RecipeError("\n".join(f"{where}: {problem}" for problem in problems))
    try:
        # JSON mode: strict, yet lists stand for tuples and text for paths
        recipe = Recipe.model_validate_json(json.dumps(document, default=os.fspath))
    except ValidationError as error:
        problems = [_explain(detail, document) for detail in error.errors()]
        raise RecipeError("\n".join(f"{where}: {problem}" for problem in problems)) from error
    for key, value, wanted in _paths(recipe):
        found = _kind(value)
        if found is None:
            raise RecipeError(f"{where}: {key} = {str(value)!r}: no such file or folder")
        if found != wanted:
            raise RecipeError(f"{where}: {key} = {str(value)!r}: this is a {found}; expected a {wanted}")
    return recipe


def _kind(path: Path) -> Literal["file", "folder"] | None:
    try:
        return "file" if path.is_file() else "folder" if path.is_dir() else None
    except OSError:  # no permission, or too long a name
        return None


def _not_plain(value: object, dotted: str = "") -> Iterator[str]:
    """Say what JSON cannot hold: NaN, infinity, dates, integers of thousands of digits."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_plain(inner, f"{dotted}.{key}" if dotted else str(key))
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from _not_plain(inner, f"{dotted}.{position}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield f"{dotted} = {json.dumps(value)}: input should be a finite number"
    elif isinstance(value, int):
        if abs(value) >= 2**63:
            yield f"{dotted}: input should be an integer of at most 64 bits"
    elif not isinstance(value, str | os.PathLike | None):
        yield f"{dotted} = {value}: input should be text, a number, true or false, a list or a table"


def _paths(recipe: Recipe) -> Iterable[tuple[str, Path, Literal["file", "folder"]]]:
    """Yield the key, the path and the kind of everything that a recipe reads."""
    if not isinstance(recipe.data, DigitsData):
        yield "data.path", recipe.data.path, "file" if isinstance(recipe.data, NpzData) else "folder"
    transfer = recipe.data.transfer
    if transfer is not None and transfer.path is not None:
        yield "data.transfer.path", transfer.path, "file" if transfer.source == "npz" else "folder"
    for section, teacher in recipe.all_teachers.items():
        for key in ("checkpoint", "onnx", "contract"):
            path = getattr(teacher, key)
            if path is not None:
                yield f"{section}.{key}", path, "file"


def _resolve_paths(table: dict[str, Any], folder: Path, where: str) -> None:
    for key, value in table.items():
        if isinstance(value, dict) and key != "arguments":
            _resolve_paths(value, folder, where)
        elif isinstance(value, list):
            for entry in value:
                if isinstance(entry, dict):
                    _resolve_paths(entry, folder, where)
        elif key in PATH_KEYS and isinstance(value, str):
            expanded = os.path.expandvars(value)
            if "$" in expanded:
                raise RecipeError(f"{where}: {key} = {value!r}: this environment variable is not set")
            try:
                table[key] = str(folder / Path(expanded).expanduser())
            except RuntimeError as error:  # ~ of a user who is not known
                raise RecipeError(f"{where}: {key} = {value!r}: {error}") from error


def read_setting(text: str, option: str, example: str) -> tuple[str, Any]:
    """Return key and value of `"key=value"`, value in TOML; what is no TOML value is taken as text."""
    key, equals, written = text.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise RecipeError(f"{option} {text}: expected key=value, such as {example}")
    try:
        return key.strip(), tomllib.loads(f"value = {written}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), written.strip()


def _override(document: dict[str, Any], override: str) -> None:
    dotted, value = read_setting(override, "--set", "quantize.samples=64")
    keys = dotted.split(".")
    table = document
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override}: {key!r} is not a section of the recipe")
    leaf = {keys[-1]: value}
    if "arguments" not in keys:  # those of a user's own factory are not touched
        _resolve_paths(leaf, Path.cwd(), f"--set {override}")
    table.update(leaf)


def _explain(detail: ErrorDetails, document: Mapping[str, Any]) -> str:
    """Return one line for one problem: key path, value, what is allowed, the nearest known key."""
    path, parent, found = _locate(detail["loc"], document, absent=detail["type"] == "missing")
    dotted = ".".join(path)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(path[:-1], parent)
        return f"unknown key {dotted!r}{nearest(path[-1], known)}; known here: {', '.join(sorted(known))}"
    context = detail.get("ctx", {})
    tag = str(context.get("discriminator", "")).strip("'")  # the key that says which table this is
    if detail["type"] in ("missing", "union_tag_not_found"):
        missing = dotted if detail["type"] == "missing" else f"{dotted}.{tag}"
        return f"the key {missing!r} is missing"
    message = sentence(detail)
    if detail["type"] == "union_tag_invalid":
        path, found = [*path, tag], context.get("tag")
        allowed = str(context.get("expected_tags", "")).replace("'", "").split(", ")
        message = f"must be one of: {', '.join(allowed)}{nearest(str(found), allowed)}"
    if not path:
        return message
    if isinstance(found, dict) and detail["type"] == "value_error":
        return f"{'.'.join(path)}: {message}"
    return f"{'.'.join(path)} = {json.dumps(found, default=str)}: {message}"


def _locate(
    loc: Sequence[int | str], document: Mapping[str, Any], *, absent: bool
) -> tuple[list[str], Mapping[str, Any], Any]:
    """Walk an error's location through the document; parts that name a union's branch are no keys.

    With `absent` the last part names a key that is missing.
    """
    path: list[str] = []
    parent: Mapping[str, Any] = document
    value: Any = document
    for position, part in enumerate(loc):
        if isinstance(value, dict) and (part in value or (absent and position == len(loc) - 1)):
            parent, value = value, value.get(str(part))
            path.append(str(part))
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else None
            path.append(str(part))
    return path, parent, value


def _known_keys(path: Sequence[str], table: Mapping[str, Any]) -> list[str]:
    """Return the keys allowed in the section at `path`, whose content is `table`."""
    if not path:
        return list(Recipe.model_fields)
    if list(path) == ["data", "transfer"]:
        return list(TransferSettings.model_fields)
    if path[0] == "data":
        branches: dict[str, type[BaseModel]] = {
            "digits": DigitsData,
            "idx": IdxData,
            "image-folder": ImageFolderData,
            "npz": NpzData,
        }
        return list(branches[table["source"]].model_fields)
    if path[:2] == ["distill", "terms"]:
        return list(KINDS[table["kind"]].model_fields)
    section: type[BaseModel] = Recipe
    for key in (key for key in path if not key.isdecimal()):
        annotation = section.model_fields[key].annotation
        kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        section = next(kind for kind in kinds if issubclass(kind, BaseModel))
    return list(section.model_fields)
