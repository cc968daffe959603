"""Real data that may be absent, and small files that tests write."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def fashion_mnist(needed: Callable[[str, Path], Path]) -> Path:
    folder = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
    return needed("fashion-mnist", folder)


@pytest.fixture(scope="session")
def imagenet_sample(needed: Callable[[str, Path], Path]) -> Path:
    return needed("imagenet-sample", Path(os.environ.get("EDGEKD_DATA", "$EDGEKD_DATA")) / "imagenet-sample.tar")


def idx_bytes(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture
def idx_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write the four files: 60 training and 20 test images of 6x5 pixels in 4 classes."""

    def write(*, packed: bool = False, **changed: bytes | None) -> Path:
        rng = np.random.default_rng(0)
        folder = tmp_path / ("packed" if packed else "plain")
        folder.mkdir(exist_ok=True)
        for part, count in (("train", 60), ("t10k", 20)):
            content = {
                "images-idx3-ubyte": idx_bytes(rng.integers(0, 256, (count, 6, 5), dtype=np.uint8)),
                "labels-idx1-ubyte": idx_bytes((np.arange(count) % 4).astype(np.uint8)),
            }
            for kind, data in content.items():
                replaced = changed.get(f"{part}_{kind[:6]}", data)
                if replaced is not None:
                    path = folder / f"{part}-{kind}{'.gz' if packed else ''}"
                    path.write_bytes(gzip.compress(replaced) if packed else replaced)
        return folder

    return write


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., Path]:
    """Write an image for each given name; its pixels depend on the name's place in the list."""

    def write(*names: str, size: tuple[int, int] = (8, 8), folder: str = "images") -> Path:
        root = tmp_path / folder
        for number, name in enumerate(names):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        return root

    return write


@pytest.fixture
def make_npz(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "data.npz", *, compressed: bool = False, **arrays: np.ndarray) -> Path:
        path = tmp_path / name
        (np.savez_compressed if compressed else np.savez)(path, **arrays)
        return path

    return write
