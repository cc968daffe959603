"""A folder of images: listed when opened, decoded when asked for.

How an image becomes the wanted size: it is scaled until it just covers that size (for a square, its shorter side
gets the wanted length; bicubic), and the middle is cut out. An image that has the size already is left as it is.
Transparency is dropped and an EXIF rotation is not applied, as in torchvision.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgekd.artifact import canonical_json, sha256_file
from edgekd.data.contract import check_sample_shape
from edgekd.data.folder_labels import label_files
from edgekd.data.sources import source_fingerprint
from edgekd.errors import DataError, EdgekdError, reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

HASHED_BYTES = 4 * 10**9
"""Folders up to this size are known by the contents of their files, larger ones by names and sizes."""

_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_DEEP_MODES = ("I", "F")  # and "I;16", "I;16B", ...: more than 8 bits a channel


class ImageFolder:
    """The images below a folder, in sorted order, as a source."""

    is_images = True

    def __init__(
        self,
        folder: Path,
        *,
        labels: str = "folder",
        size: tuple[int, int] | None = None,
        colour: Literal["RGB", "gray"] = "RGB",
        cache_mb: int = 0,
        classes: Sequence[str] = (),
    ) -> None:
        """List the images and find their classes. Files that are no images by their suffix are ignored.

        Args:
            folder: With images at any depth. Where every image is below `train/` or `test/`, those in `test/` are
                the predefined test split.
            labels: Where the classes are from: `"folder"` (the name of the first folder, in sorted order),
                `"prefix"` (the number before `_` in the file name), `"none"`, or the name of a CSV file in that
                folder with the columns `file,label`; only the images it names are taken.
            size: Height and width of the images given out; None: those of the first image.
            colour: `"RGB"` or `"gray"`.
            cache_mb: Decoded images are kept in memory if all of them fit into so many megabytes (10^6 bytes).
            classes: Names of the classes, where a model has set them already.

        Raises:
            DataError: there is no such folder, no image in it, or an image without a class; or the size is too large.
        """
        self.name = str(folder)
        self._folder = folder
        files = _list_images(folder)
        if not files:
            raise DataError(f"{folder}: no images; expected <class>/<image> with {', '.join(sorted(_SUFFIXES))}")
        self._files, self.labels, self.classes, self.predefined_test = label_files(
            folder, files, labels, tuple(classes)
        )
        self._mode = "L" if colour == "gray" else "RGB"
        height, width = size or self._size_of(self._files[0])
        self.sample_shape: tuple[int, ...] = (height, width, len(self._mode))
        check_sample_shape(self.sample_shape, str(folder))
        self._cache_bytes = cache_mb * 10**6

    def __len__(self) -> int:
        return len(self._files)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the decoded images behind: a worker process decodes its own."""
        return {key: value for key, value in self.__dict__.items() if key != "_cache"}

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over names and contents of the files (beyond `HASHED_BYTES`: names and sizes), and labels."""
        sizes = {}
        for file in self._files:
            with reading(self._folder / file, DataError, "image"):
                sizes[file] = (self._folder / file).stat().st_size
        content: dict[str, int | str] = dict(sizes)
        if sum(sizes.values()) <= HASHED_BYTES:
            content = {file: sha256_file(self._folder / file, DataError) for file in self._files}
        whole = hashlib.sha256(canonical_json(content)).hexdigest()
        return source_fingerprint(whole, self.labels, self.predefined_test)

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode images, or take them from memory. See `Source.pixels`."""
        if self._cache is None:
            return self._decoded(indices)
        images, known = self._cache
        missing = np.unique(indices[~known[indices]])
        if missing.size:
            images[missing] = self._decoded(missing)
            known[missing] = True
        return images[indices]

    @cached_property
    def _cache(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
        """All images and which of them are decoded already, or None if they do not fit."""
        shape = (len(self), *self.sample_shape)
        if int(np.prod(shape, dtype=np.int64)) > self._cache_bytes:
            return None
        return np.empty(shape, dtype=np.uint8), np.zeros(len(self), dtype=np.bool_)

    def _decoded(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = np.empty((len(indices), *self.sample_shape), dtype=np.uint8)
        height, width, _ = self.sample_shape
        for row, index in enumerate(indices):
            images[row] = decode(self._folder / self._files[index], (height, width), self._mode)
        return images

    def _size_of(self, file: str) -> tuple[int, int]:
        with _decoding(self._folder / file), Image.open(self._folder / file) as image:
            return image.height, image.width


def decode(path: Path, size: tuple[int, int], mode: str) -> NDArray[np.uint8]:
    """Read one image.

    Args:
        path: The file.
        size: Height and width of the result; see the module's text for how it is reached.
        mode: `"RGB"` or `"L"`.

    Returns:
        uint8 of shape (height, width, channels).

    Raises:
        DataError: the file is missing, damaged, no image, or has more than 8 bits a channel.
    """
    with _decoding(path), Image.open(path) as image:
        if image.mode.startswith(_DEEP_MODES):
            raise DataError(f"{path}: more than 8 bits a channel ({image.mode}); convert it to 8 bits")
        opaque = image.convert("RGBA") if "transparency" in image.info else image
        return np.asarray(cover(opaque.convert(mode), size)).reshape(*size, len(mode))


def cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return an image in the wanted size, height and width, as the module's text says."""
    height, width = size
    if (image.height, image.width) == size:
        return image
    scale = max(height / image.height, width / image.width)
    scaled = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    # along rows first: where Pillow itself begins depends on the shape, and on its version
    wide = image.resize((scaled[0], image.height), Image.Resampling.BICUBIC)
    return wide.resize(scaled, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    with reading(path, DataError, "image"):
        try:
            yield
        except (EdgekdError, FileNotFoundError, PermissionError):
            raise
        except UnidentifiedImageError as error:
            raise DataError(f"{path}: not an image of a known format; replace or remove it") from error
        except Exception as error:  # on damaged content decoders raise whatever they stumble over
            raise DataError(f"{path}: a damaged image: {error}; replace or remove it") from error


def _list_images(folder: Path) -> list[str]:
    """Return the paths of all images below `folder`, relative to it, with `/`, sorted."""

    def refuse(error: OSError) -> None:
        raise error

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = []
    with reading(folder, DataError, "folder"):
        for current, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inner = Path(current).relative_to(folder)
            files += [
                (inner / name).as_posix()
                for name in names
                if not name.startswith(".") and Path(name).suffix.lower() in _SUFFIXES
            ]
    return sorted(files)
