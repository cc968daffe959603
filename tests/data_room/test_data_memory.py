"""Large data is read in memory that does not grow with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

MEGABYTE = 2**20
BUDGET = 24 * MEGABYTE
ROWS, WIDTH = 24 * 1024, 1024  # 96 MB of float32

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from edgekd.data import Contract, batches, open_data

def peak():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM")) * 1024

contract = Contract(layout="NCHW", shape=(3, 256, 256), colour="RGB", mean=(0.5,) * 3, std=(0.5,) * 3)
open_data(sys.argv[1], inputs=["x"], contract=contract).batch([0])
before = peak()
samples = open_data(sys.argv[2], inputs=["x"], contract=contract)
samples.fingerprint
seen = sum(batch["x"].nbytes for batch in batches(samples, 8))
print(seen, peak() - before)
"""


def growth(small: Path, large: Path) -> tuple[int, int]:
    """Return how many bytes a child process saw of the large data, and by how many its peak memory grew."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc, which this system does not have")
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(small), str(large)], capture_output=True, text=True, check=True
    )
    seen, grown = child.stdout.split()
    return int(seen), int(grown)


@pytest.mark.parametrize("kind", ["stored", "compressed", "fortran"])
def test_an_npz_file_larger_than_the_budget(make_npz: Callable[..., Path], kind: str) -> None:
    x = np.zeros((ROWS, WIDTH), dtype=np.float32, order="F" if kind == "fortran" else "C")
    small = make_npz("small.npz", compressed=kind == "compressed", x=x[:8])
    seen, grown = growth(small, make_npz("large.npz", compressed=kind == "compressed", x=x))
    assert seen == ROWS * WIDTH * 4
    assert grown < BUDGET


def test_an_image_folder_larger_than_the_budget(tmp_path: Path) -> None:
    for name, count in (("small", 2), ("large", 300)):
        (tmp_path / name / "a").mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (256, 256), (number % 256, 0, 0)).save(tmp_path / name / "a" / f"{number}.bmp")
    seen, grown = growth(tmp_path / "small", tmp_path / "large")
    assert seen == 300 * 3 * 256 * 256 * 4
    assert grown < BUDGET


def test_importing_the_room_loads_nothing_heavy() -> None:
    program = "import sys, edgekd.data; print([m for m in ('torch', 'sklearn', 'pydantic') if m in sys.modules])"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"
