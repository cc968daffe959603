"""The input contract: what a model takes, said once and carried from the data to the app.

It travels in the cards of a run and in the ONNX file itself (`metadata_props`, key `edgekd.contract`).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from edgekd.errors import DataError, EdgekdError, ModelError, reading
from edgekd.text import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

Layout = Literal["NCHW", "NHWC", "as-is"]
Colour = Literal["RGB", "BGR", "gray"]
MOST_VALUES = 2**26  # of one sample: 256 MB in float32, an image of 4,700 x 4,700 pixels


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What goes into a model and what comes out.

    An image of `size` (height, width) becomes `(pixel / 255 - mean) / std` per channel, in `layout`. An array
    ("as-is") goes in unchanged.

    Attributes:
        layout: Order of the axes, batch first; `"as-is"` for arrays that are no images.
        shape: Shape of one sample as the model takes it, without the batch axis.
        colour: Order of the colour channels; None for arrays.
        mean: Mean of each channel, in units of the pixel range [0, 1]; empty for arrays.
        std: Standard deviation of each channel, likewise.
        labels: Names of the classes, in the order of the logits.
        input: Name of the model's input.
        output: Name of the model's output.
    """

    layout: Layout
    shape: tuple[int, ...]
    colour: Colour | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    input: str = "input"
    output: str = "logits"

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise DataError(f"contract: layout must be one of {', '.join(get_args(Layout))}, found {self.layout!r}")
        check_sample_shape(self.shape, "contract")
        for role, name in (("input", self.input), ("output", self.output)):
            if not isinstance(name, str) or not name:
                raise DataError(f"contract: {role} must be the name of the model's {role}, found {name!r}")
        if self.input == self.output:
            raise DataError(f"contract: input and output must have different names, found {self.input!r} for both")
        if not isinstance(self.labels, tuple) or not all(isinstance(label, str) for label in self.labels):
            raise DataError(f"contract: labels must be a list of class names, found {self.labels!r}")
        if self.layout == "as-is":
            return
        if self.colour not in get_args(Colour):
            raise DataError(f"contract: colour must be one of {', '.join(get_args(Colour))}, found {self.colour!r}")
        if len(self.shape) != 3:
            raise DataError(f"contract: an image has 3 axes besides the batch, found shape {list(self.shape)}")
        channels = 1 if self.colour == "gray" else 3
        if self.channels != channels or len(self.mean) != channels or len(self.std) != channels:
            raise DataError(
                f"contract: {self.colour} in {self.layout} needs {channels} channels and as many means and stds, "
                f"found shape {list(self.shape)}, mean {list(self.mean)}, std {list(self.std)}"
            )
        if not all(_is_normal(mean, std) for mean, std in zip(self.mean, self.std, strict=True)):
            raise DataError(
                f"contract: mean must be finite numbers and std positive ones (float32), found "
                f"{self.mean} and {self.std}"
            )

    @property
    def channels(self) -> int:
        """Number of colour channels of an image."""
        return self.shape[0] if self.layout == "NCHW" else self.shape[-1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        height, width = self.shape[1:] if self.layout == "NCHW" else self.shape[:2]
        return height, width

    def prepare(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Turn samples into what the model takes.

        Args:
            pixels: For images uint8 of shape (N, height, width, channels), RGB or gray; else arrays (N, *shape).

        Returns:
            float32 of shape (N, *self.shape).
        """
        if self.layout == "as-is":
            return np.ascontiguousarray(pixels, dtype=np.float32)
        if self.colour == "BGR":
            pixels = pixels[..., ::-1]
        scale = np.asarray(self.std, dtype=np.float32) * np.float32(255)
        shift = np.asarray(self.mean, dtype=np.float32) / np.asarray(self.std, dtype=np.float32)
        values = pixels.astype(np.float32) / scale - shift
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self.layout == "NCHW" else values)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data; images have `size` (height, width), arrays `shape`."""
        data = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        if self.layout != "as-is":
            data["size"] = list(self.size)
            del data["shape"]
        return data

    @classmethod
    def from_json(cls, data: object, where: str, kind: type[EdgekdError] = DataError) -> Contract:
        """Read what `to_json` wrote; anything wrong raises `kind` with `where` in its message."""
        if not isinstance(data, dict):
            raise kind(f"{where}: a contract is a JSON object, found {type(data).__name__}")
        known = [f.name for f in fields(cls)] + ["size"]
        for key in data:
            if key not in known:
                raise kind(f"{where}: unknown key {key!r} in the contract{nearest(key, known)}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        try:
            size = values.pop("size", None)
            if size is not None:
                height, width = size
                channels = 1 if values["colour"] == "gray" else 3
                nchw = values["layout"] == "NCHW"
                values["shape"] = (channels, height, width) if nchw else (height, width, channels)
            return cls(**values)
        except DataError as error:
            raise kind(f"{where}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise kind(f"{where}: not a contract (layout, size, colour, mean, std, labels): {error}") from error


def check_sample_shape(shape: object, where: str) -> None:
    """Refuse a shape of one sample that is none, or so large that no device could run it.

    Raises:
        DataError: an extent is no positive whole number, or the sample has more than `MOST_VALUES` values.
    """
    if not isinstance(shape, tuple) or not all(type(extent) is int and extent > 0 for extent in shape):
        found = list(shape) if isinstance(shape, tuple) else shape
        raise DataError(f"{where}: every extent of a sample must be a positive whole number, found {found!r}")
    if math.prod(shape) > MOST_VALUES:
        raise DataError(
            f"{where}: a sample of shape {list(shape)} has more than {MOST_VALUES:,} values, the most that is "
            "allowed; choose a smaller size"
        )


def _is_normal(mean: Any, std: Any) -> bool:
    """Return whether `(pixel / 255 - mean) / std` can be computed in float32."""
    numbers = all(isinstance(value, int | float) and abs(value) < 1e30 for value in (mean, std))  # NaN is not
    return numbers and std > 1e-30 and abs(mean / std) < 1e30


def read_contract(path: Path) -> Contract:
    """Read a contract from a JSON file.

    Raises:
        DataError: the file is missing, no JSON or no contract.
    """
    return Contract.from_json(_read_json(path, "contract file"), str(path))


def card_contract(path: Path) -> Contract:
    """Return the contract in an artifact's card.

    Raises:
        DataError: there is no card, or no contract in it.
    """
    card = _read_json(path, "card")
    contract = card.get("extra", {}).get("contract") if isinstance(card, dict) else None
    if contract is None:
        raise DataError(f"{path}: this card holds no input contract; give one with --contract FILE.json")
    return Contract.from_json(contract, str(path))


def _read_json(path: Path, what: str) -> object:
    with reading(path, DataError, what):
        text = path.read_bytes()
    try:
        data: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    return data


def contract_of_metadata(metadata: Mapping[str, str], where: str) -> Contract | None:
    """Return the contract in an ONNX file's metadata, or None if it has none.

    Raises:
        ModelError: there is one, but it is damaged.
    """
    text = metadata.get("edgekd.contract")
    if text is None:
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where}: the contract in its metadata is not JSON: {error}") from error
    return Contract.from_json(data, where, ModelError)
