"""The settings of a recipe's data: where samples come from, and how they are shared out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from edgekd.settings import MOST, Count, Settings


def _part(value: object) -> object:
    whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST
    share = isinstance(value, float) and 0 < value < 1
    if not (whole or share):
        raise ValueError("must be a share of the samples between 0 and 1, or a whole number of samples")
    return value


Side = Annotated[int, Field(ge=1, le=8192)]  # pixels
Part = Annotated[int | float, BeforeValidator(_part)]


class TransferSettings(Settings):
    """Samples without labels that the student learns from, too: by the teacher's word alone."""

    source: Literal["rest", "digits", "idx", "image-folder", "npz"]
    """Where samples come from; `"rest"`: those of the data's own source that no split took, where `data.train` is
    limited."""
    path: Path | None = None
    """A folder, or an `.npz` file, relative to the recipe. `$NAME` is taken from the environment. Labels are ignored,
    and so are the source's own test samples."""
    samples: Count | None = None
    """At most so many, evenly spaced; all by default."""
    cache_mb: int = Field(default=512, ge=0, le=MOST)
    """Decoded images are kept in memory if all of them fit into so many megabytes, else read when needed."""

    @model_validator(mode="after")
    def _has_a_path_where_it_needs_one(self) -> TransferSettings:
        if self.source in ("rest", "digits") and self.path is not None:
            raise ValueError(f"the source {self.source!r} has no path")
        if self.source not in ("rest", "digits") and self.path is None:
            raise ValueError(f"the key 'path' is missing: where the samples of the source {self.source!r} lie")
        return self


class SplitSettings(Settings):
    """How samples are shared out. All splits are disjoint, stratified by class and seeded."""

    test: Part = 0.2
    """The test split; not taken where the source brings its own (IDX files, `train/` and `test/` folders)."""
    validation: Part = 0.1
    """Chooses the best epoch, and layers to leave in fp32."""
    calibration: Part = 0.1
    """Sets the ranges of the quantization."""
    train: Count | None = None
    """At most so many training samples; all that are left by default."""
    crop_padding: int = Field(default=0, ge=0, le=1024)
    """Training images are shifted by up to so many pixels in each direction."""
    flip: bool = False
    """Training images are mirrored at random."""
    transfer: TransferSettings | None = None
    """Samples without labels that the student learns from, too."""


class DigitsData(SplitSettings):
    """The 1,797 handwritten digits of 8x8 pixels that scikit-learn ships."""

    source: Literal["digits"]
    """Where samples come from."""


class ImageData(SplitSettings):
    """What image sources share."""

    path: Path
    """A folder, relative to the recipe. `$NAME` is taken from the environment."""
    mean: tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...] | None = None
    """Mean of each channel in units of [0, 1]; measured on the training split by default."""
    std: tuple[Annotated[float, Field(ge=1e-6, le=1e6)], ...] | None = None
    """Standard deviation of each channel, likewise."""
    cache_mb: int = Field(default=512, ge=0, le=MOST)
    """Decoded images are kept in memory if all of them fit into so many megabytes, else read when needed."""


class IdxData(ImageData):
    """The four IDX files of MNIST and its relatives, plain or `.gz`."""

    source: Literal["idx"]
    """Where samples come from."""
    labels: tuple[str, ...] = ()
    """Names of the classes; their numbers by default."""


class ImageFolderData(ImageData):
    """`<class>/<image>` files, with or without `train/` and `test/` above them."""

    source: Literal["image-folder"]
    """Where samples come from."""
    size: tuple[Side, Side] | None = None
    """Height and width the model takes; that of the first image by default."""
    colour: Literal["RGB", "gray"] = "RGB"
    """Colour order of the model's input."""
    labels: str = "folder"
    """Where the class is from: `"folder"` (sorted order), `"prefix"` (the number before `_` in the file name),
    or the name of a CSV file (`file,label`) in that folder."""


class NpzData(SplitSettings):
    """An `.npz` file with `labels` and one array of samples: float32 as the model takes it, or uint8 images."""

    source: Literal["npz"]
    """Where samples come from."""
    path: Path
    """The file, relative to the recipe. `$NAME` is taken from the environment."""


DataSettings = Annotated[DigitsData | IdxData | ImageFolderData | NpzData, Field(discriminator="source")]
