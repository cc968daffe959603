"""Where the data folders lie that ship with edgekd."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def resource_folder(name: Literal["devices", "recipes"]) -> Path:
    """Return the shipped folder: `edgekd/_<name>` in an installed wheel, `<name>` in a checkout.

    Raises:
        FileNotFoundError: this installation is damaged.
    """
    package = Path(__file__).parent
    shipped, checkout = package / f"_{name}", package.parent / name
    if shipped.is_dir():
        return shipped
    if (package.parent / "pyproject.toml").is_file() and checkout.is_dir():
        return checkout
    raise FileNotFoundError(f"{shipped}: this installation of edgekd lacks its {name}; install it again")
