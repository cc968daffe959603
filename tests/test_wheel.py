"""What the wheel holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_devices_and_recipes_ship_inside_the_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE", "edgekd", "devices", "recipes"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    ran = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"edgekd/_devices/{path.name}" for path in (ROOT / "devices").glob("*.toml")} <= names
    assert {f"edgekd/_recipes/{path.name}" for path in (ROOT / "recipes").glob("*.toml")} <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "edgekd").rglob("*.py")} <= names
    assert "edgekd/py.typed" in names
    entry = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("entry_points.txt")))
    assert b"edgekd = edgekd.cli:main" in entry
