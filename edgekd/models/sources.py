"""The source files behind a user's model: found by reading import statements, known by their content."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.artifact import canonical_json, sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_NOT_OWN = "edgekd"  # its version stands for its code

# The spec tells one import of a module from the next: reloading gives it a new one.
_imported: dict[str, tuple[ModuleSpec, str]] = {}


def digest(module: ModuleType, folders: Sequence[Path]) -> str:
    """Return the hex sha256 over a module's source and all it imports from its package, beside it or in `folders`.

    A module that is imported already counts as it was when this was first asked for, since that code is what runs.

    Args:
        module: It has a file.
        folders: Where a user's own modules lie, the first one first.
    """
    top = module.__name__.partition(".")[0]
    beside = _root(module)
    roots = [root for root in (*folders, beside) if not _is_shared(root)]
    found: dict[str, str] = {}
    waiting = [module.__name__]
    while waiting:
        name = waiting.pop()
        within = [beside] if name.partition(".")[0] == top else roots
        path = None if name in found else _file(name, within)
        if path is None or name.partition(".")[0] == _NOT_OWN:
            continue
        found[name] = _digest_of(name, path)
        parent = name.rpartition(".")[0]
        waiting += [parent] if parent else []
        waiting += _imports(path, name if path.name == "__init__.py" else parent)
    return hashlib.sha256(canonical_json(found)).hexdigest()


def _root(module: ModuleType) -> Path:
    """Return the folder that holds a module's top-level package or file."""
    file = Path(str(module.__file__))
    depth = module.__name__.count(".") + (file.name == "__init__.py")
    return file.parents[depth]


def _is_shared(root: Path) -> bool:
    """Say whether a folder holds everybody's packages, whose neighbours have nothing to do with each other."""
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()
    return root.name in ("site-packages", "dist-packages") or root.resolve() == stdlib


def _file(name: str, roots: Sequence[Path]) -> Path | None:
    for root in roots:
        place = root.joinpath(*name.split("."))
        for path in (place / "__init__.py", place.with_name(place.name + ".py")):
            if path.is_file():
                return path
    return None


def _digest_of(name: str, path: Path) -> str:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None:
        return sha256_file(path)  # will be imported later, if at all
    known = _imported.get(name)
    if known is None or known[0] is not spec:
        known = spec, sha256_file(path)
        _imported[name] = known
    return known[1]


def _imports(path: Path, package: str) -> Iterator[str]:
    """Yield the names of modules that a file may import, anywhere in it; `package` is what `.` means there."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # importing it says what is wrong
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield base
                for alias in node.names:
                    yield f"{base}.{alias.name}"
