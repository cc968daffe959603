"""Packages that tests of bundles install with npm, once, into a cache: `EDGEKD_TEST_CACHE`, or the user's."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

VERSIONS = {"onnxruntime-node": "1.30.0", "onnxruntime-web": "1.30.0", "playwright-core": "1.52.0"}


def fetched_folder() -> Path:
    """Return the folder of what tests fetch once."""
    return Path(os.environ.get("EDGEKD_TEST_CACHE") or Path.home() / ".cache" / "edgekd-tests")


def npm_packages(needed: Callable[[str, Path], Path]) -> Path:
    """Return a folder whose `node_modules` holds the packages; skip or fail without node, npm or their registry."""
    npm = [needed("node", Path(shutil.which(name) or f"/usr/bin/{name}")) for name in ("node", "npm")][1]
    content = json.dumps({"private": True, "dependencies": VERSIONS})
    folder = fetched_folder() / f"npm-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "installed"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            (folder / "package.json").write_text(content)
            flags = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")
            ran = subprocess.run([npm, "install", *flags], cwd=folder, capture_output=True, text=True, check=False)
            if ran.returncode == 0:
                done.touch()
            elif "node" not in os.environ.get("EDGEKD_REQUIRE", "").split(","):
                pytest.skip(f"npm installs nothing here: {ran.stderr.strip().splitlines()[-1]}")
    return needed("node", done).parent
