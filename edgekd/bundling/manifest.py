"""The manifest of a bundle, `edgekd.bundle/1`: what its packages read. docs/bundle.md says what each key means."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edgekd.artifact import read_json, sha256_file
from edgekd.errors import DataError, reading

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST: Final = "edgekd-bundle.json"
SCHEMA: Final = "edgekd.bundle/1"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def require_plain(path: str) -> str:
    """Return a path of plain names, relative to the manifest.

    Raises:
        ValueError: it is another, which may lead out of the bundle.
    """
    if not all(_PLAIN.fullmatch(name) for name in path.split("/")):
        raise ValueError("a path that leaves the bundle")
    return path


PlainPath = Annotated[str, AfterValidator(require_plain)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    """Keys of a later edgekd are left unread."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class File(_Part):
    """A file that packages read."""

    path: PlainPath
    bytes: int = Field(ge=0)
    sha256: Sha256


class Tensor(_Part):
    """A file of values in little-endian order, row after row."""

    name: str
    dtype: str
    shape: list[int]
    path: PlainPath


class Output(Tensor):
    """What an output is expected to be; `tolerance` is an absolute difference."""

    tolerance: float = Field(ge=0)


class Value(_Part):
    """An input or output of a model; None is a free axis."""

    name: str
    dtype: str
    shape: list[int | None]


class Image(_Part):
    """How pixels become the input."""

    colour: Literal["RGB", "BGR", "gray"]
    layout: Literal["NCHW", "NHWC"]
    height: int
    width: int
    mean: list[float]
    std: list[float]
    resize: Literal["cover-bicubic"] = "cover-bicubic"


class Session(_Part):
    """What a session is opened with, in onnxruntime's words."""

    intra_op_num_threads: int = Field(ge=0)
    intra_op_spinning: bool
    enable_cpu_mem_arena: bool
    graph_optimization_level: Literal["all", "extended", "basic", "none"]


class Variant(_Part):
    """A model of the bundle."""

    path: PlainPath
    precision: Literal["int8", "fp16", "fp32"]
    format: Literal["onnx", "ort"]
    made_for: str | None
    right_on: list[str]
    session: Session


class Expected(_Part):
    """What a model answers to the golden inputs, and where that was computed."""

    target: str
    device: str
    outputs: list[Output]


class Choice(_Part):
    """The model for a target."""

    model: PlainPath
    expected: Expected


class Golden(_Part):
    """The inputs of the self-test; the first axis of each is the runs."""

    runs: int = Field(ge=1)
    source: Literal["data", "synthetic"]
    inputs: list[Tensor]


class ImageVector(_Part):
    """Pixels, and the sha256 of the tensor that they become."""

    pixels: Tensor
    sha256: Sha256


class Text(_Part):
    """How a text becomes the inputs."""

    vocabulary: PlainPath
    characters: PlainPath
    unknown: int
    first: int
    last: int
    continuation: str
    longest_word: int
    longest: int
    ids: str
    mask: str | None
    types: str | None


class TextVector(_Part):
    """A text, and the numbers of the tokens that it becomes."""

    text: str
    ids: list[int]


class Preparation(_Part):
    """What tests how inputs are prepared."""

    images: list[ImageVector] = []
    texts: list[TextVector] = []


class Versions(_Part):
    """Of onnxruntime: the oldest that reads the models, and the one that computed what they answer."""

    least: str
    tested: str


class Runtime(_Part):
    """What the models need of a runtime."""

    onnxruntime: Versions
    ir_version: int
    opsets: dict[str, int]
    operators: dict[str, list[str]]


class Licence(_Part):
    """A text that goes with a component."""

    component: str
    path: PlainPath


class Manifest(_Part):
    """A manifest."""

    schema_: Literal["edgekd.bundle/1"] = Field(default=SCHEMA, alias="schema")
    name: str
    edgekd: str
    files: list[File]
    runtime: Runtime
    inputs: list[Value]
    outputs: list[Value]
    image: Image | None
    text: Text | None
    labels: list[str]
    variants: list[Variant] = Field(min_length=1)
    targets: dict[str, Choice]
    golden: Golden
    preparation: Preparation
    benchmark: dict[str, Any] | None
    licences: list[Licence]

    def to_json(self) -> dict[str, Any]:
        """Return it in the form `edgekd.bundle/1`."""
        return self.model_dump(mode="json", by_alias=True)


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a bundle; its files are not looked at.

    Raises:
        DataError: there is none, or it is not in the form `edgekd.bundle/1`.
    """
    path = folder / MANIFEST
    content = read_json(path, SCHEMA, "manifest")
    try:
        return Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from error


def require_whole(folder: Path, manifest: Manifest) -> None:
    """Find out whether every file of a bundle is there as the manifest has it.

    Raises:
        DataError: one is missing, changed, or lies outside the bundle.
    """
    root = folder.resolve()
    for file in manifest.files:
        path = folder / file.path
        with reading(path, DataError):
            if not path.resolve().is_relative_to(root):
                raise DataError(f"{path}: a link that leads out of the bundle")
            size = path.stat().st_size
        if size != file.bytes:
            raise DataError(f"{path}: {size} bytes, the manifest has {file.bytes}: truncated or changed")
        if sha256_file(path, DataError) != file.sha256:
            raise DataError(f"{path}: its sha256 is not that of the manifest: damaged or changed")
