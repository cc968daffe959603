"""What a file imports that is pushed to boards as it is."""

from __future__ import annotations

import ast
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def imports_beyond_the_standard_library(source: Path) -> set[str]:
    """Return the packages that a file of Python 3.9 imports, also inside functions; a relative import counts as `.`."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text(), feature_version=(3, 9))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module if node.module and not node.level else ".")
    return {name.split(".")[0] if name != "." else name for name in names} - set(sys.stdlib_module_names)
