"""Recipes: one TOML file becomes typed settings, one class a stage.

Settings are strict and frozen. Whatever is wrong with a recipe is said in one message that names the file, the
key, the value found, what is allowed and, for an unknown key, the nearest known one.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field, PrivateAttr, ValidationError, model_validator

from edgekd.errors import RecipeError, reading
from edgekd.settings import MOST, PATH_KEYS, Settings, sentence
from edgekd.terms import KINDS, AnyTerm, CacheSettings, CeTerm, ConfidenceSettings, KdTerm, PairTerm, TapSettings
from edgekd.text import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pydantic_core import ErrorDetails


def _part(value: object) -> object:
    whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST
    share = isinstance(value, float) and 0 < value < 1
    if not (whole or share):
        raise ValueError("must be a share of the samples between 0 and 1, or a whole number of samples")
    return value


Count = Annotated[int, Field(ge=1, le=MOST)]
Side = Annotated[int, Field(ge=1, le=8192)]  # pixels
Part = Annotated[int | float, BeforeValidator(_part)]


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


class ModelSettings(Settings):
    """An architecture."""

    model: str = Field(min_length=1)
    """A known name such as `resnet20`, or a factory of your own: `package.module:function`, looked for in the
    recipe's folder, the current one and what is installed."""
    arguments: dict[str, Any] = Field(default={})
    """Keyword arguments of your own factory."""


class TrainingSettings(Settings):
    """How a network is trained."""

    epochs: int = Field(default=30, ge=1, le=1_000_000)
    """Passes over the training samples; the best one on the validation split is kept."""
    batch_size: int = Field(default=64, ge=1, le=1_000_000)
    """Samples in a step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    learning_rate: float = Field(default=0.1, ge=1e-12, le=1000)
    """The highest one: it rises linearly in the warm-up, then falls to zero on a half cosine."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD, in Nesterov's form."""
    weight_decay: float = Field(default=5e-4, ge=0, le=10)
    """Of all weights."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a label that is spread over all classes, where labels alone are learnt from."""
    patience: Count | None = None
    """Stop after so many epochs without a better one on the validation split. None: train them all."""
    workers: int = Field(default=0, ge=0, le=256)
    """Processes that read data. They change the speed and nothing else."""
    checkpoint_s: float = Field(default=10.0, ge=0, le=86400)
    """Seconds between two checkpoints. They change the speed and nothing else."""


class TeacherSettings(ModelSettings, TrainingSettings):
    """The teacher: trained here, read from `checkpoint`, or an ONNX file."""

    model: str = ""
    """A known name such as `resnet20`, or a factory of your own: `package.module:function`, looked for in the
    recipe's folder, the current one and what is installed."""
    checkpoint: Path | None = None
    """A state dict (`.safetensors`, or `.pt` read with `weights_only`); with it nothing is trained."""
    onnx: Path | None = None
    """An ONNX file instead of a `model`: nothing is trained, and no code of it is needed."""
    contract: Path | None = None
    """How images become the ONNX file's input (JSON), where its metadata do not say so."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> TeacherSettings:
        if not self.model and self.onnx is None:
            raise ValueError("the key 'model' is missing, or 'onnx' for a teacher in an ONNX file")
        if self.model and self.onnx is not None:
            raise ValueError("give a model or an onnx file, not both")
        if self.onnx is not None and (self.checkpoint is not None or self.arguments):
            raise ValueError("an onnx file has its weights inside; checkpoint and arguments are for a model")
        if self.contract is not None and self.onnx is None:
            raise ValueError("contract is for an onnx file; a model takes what the data gives")
        return self


class DistillSettings(TrainingSettings):
    """How the student learns: `L = alpha * L_KD + (1 - alpha) * L_CE` (Hinton et al. 2015, arXiv:1503.02531)."""

    temperature: float = Field(default=4.0, ge=0.01, le=1000)
    """Softens both distributions; `L_KD` is multiplied by its square."""
    temperature_end: float | None = Field(default=None, ge=0.01, le=1000)
    """The temperature at the end of the term's time, which it nears linearly. None: it stays."""
    alpha: float = Field(default=0.8, ge=0, le=1)
    """Weight of the teacher's word against the label's."""
    alpha_end: float | None = Field(default=None, ge=0, le=1)
    """Alpha at the end of the training, which it nears linearly. None: it stays."""
    terms: tuple[Annotated[AnyTerm, Field(discriminator="kind")], ...] = ()
    """The terms of the loss, in place of `alpha` and `temperature`: one table `[[distill.terms]]` for each."""
    taps: TapSettings = TapSettings()
    """Where features are taken from, for terms that look at them."""
    confidence: ConfidenceSettings = ConfidenceSettings()
    """Which of the teacher's answers count."""
    cache: CacheSettings | None = None
    """Ask the teacher once and store its answers on disk. None: it runs in every step."""
    control: bool = True
    """Train the same student without a teacher as well, to show what distillation gains."""

    @model_validator(mode="after")
    def _terms_are_sound(self) -> DistillSettings:
        if not self.terms:
            return self
        told = {"alpha", "alpha_end", "temperature", "temperature_end"} & self.model_fields_set
        if told:
            raise ValueError(
                f"{' and '.join(sorted(told))} belong to the terms where terms are given: set them there"
            )
        for term in self.terms:
            if isinstance(term, PairTerm) and not self.taps.pairs:
                raise ValueError(f"the term {term.kind!r} compares features: name them with taps.pairs")
            if isinstance(term, PairTerm) and max(term.pairs, default=0) >= len(self.taps.pairs):
                raise ValueError(f"the term {term.kind!r} asks for pair {max(term.pairs)}, counted from 0; "
                                 f"taps.pairs has {len(self.taps.pairs)}")  # fmt: skip
        for share in sorted({0.0} | {term.stop for term in self.terms if term.stop < 1}):
            if not any(term.counts(share) for term in self.terms):
                raise ValueError(f"no term counts from {share:g} of the training on")
        return self

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of taps, where a term looks at features; else none."""
        return self.taps.pairs if any(isinstance(term, PairTerm) for term in self.terms) else ()

    def loss_terms(self) -> tuple[AnyTerm, ...]:
        """Return the terms of the loss: those given, or KD and cross-entropy weighed by alpha."""
        if self.terms:
            return self.terms
        end = self.alpha_end
        return (
            KdTerm(
                kind="kd",
                weight=self.alpha,
                weight_end=end,
                temperature=self.temperature,
                temperature_end=self.temperature_end,
            ),
            CeTerm(kind="ce", weight=1 - self.alpha, weight_end=None if end is None else 1 - end),
        )


class ExportSettings(Settings):
    """How the ONNX file is written."""

    opset: int = Field(default=18, ge=17, le=20)
    """Version of the ONNX operators."""


class QuantizeSettings(Settings):
    """INT8."""

    mode: Literal["static", "dynamic"] = "static"
    """Activations quantized once, from the calibration split; or, for networks of matrices, anew at every run."""
    target: str = "auto"
    """The instruction set the file is for; `auto` is this machine's."""
    samples: Count | None = None
    """At most so many calibration samples; the whole split by default."""
    ranges: Literal["minmax", "percentile", "entropy", "mse", "auto"] = "mse"
    """How the range of an activation is chosen: all that was seen, 99.99 % of it, by least change of the
    distribution, by least squared error, or that one of these from which the nodes that read it suffer least."""
    rounding: Literal["gptq", "nearest"] = "gptq"
    """Round weights with the layer's error in view (GPTQ, arXiv:2210.17323), or each for itself."""
    bias_correction: bool = True
    """Let biases make good the mean error of rounding."""
    weight_ranges: Literal["max", "mse"] = "mse"
    """The scale of every channel of weights: the one that clips none, or that of least squared error."""
    equalisation: bool = True
    """Scale channels between layers to like widths first (arXiv:1906.04721)."""
    smoothing: bool = True
    """Scale the inputs of matrix products where a few channels dwarf the others, as in transformers
    (arXiv:2211.10438)."""
    max_drop: float | None = Field(default=None, ge=0, le=1)
    """The gate: how much test accuracy the INT8 file may lose against the fp32 one. Layers stay in fp32, as few as
    can be, where the validation split would lose more. None: no gate."""


class BenchSettings(Settings):
    """How latency and memory are measured."""

    device: str = "local"
    """A profile of `edgekd devices list`."""
    threads: int = Field(default=1, ge=1, le=256)
    """Threads of an operator."""
    duration_s: float = Field(default=2.0, ge=0.001, le=3600)
    """Seconds of timed runs for each model."""
    repeats: int = Field(default=6, ge=2, le=1000, multiple_of=2)
    """Fresh processes for each model, in alternating order."""


class Recipe(Settings):
    """Everything a run needs."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """The run's folder is `runs/<name>`."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the splits, the first weights, the order of samples and their augmentation."""
    data: DataSettings
    """Where samples come from and how they are shared out."""
    teacher: TeacherSettings
    """The network to learn from."""
    student: ModelSettings
    """The network to ship."""
    distill: DistillSettings = DistillSettings()
    """How the student learns."""
    export: ExportSettings = ExportSettings()
    """How the ONNX file is written."""
    quantize: QuantizeSettings = QuantizeSettings()
    """How it gets 8 bits."""
    bench: BenchSettings = BenchSettings()
    """How latency and memory are measured."""

    _folder: Path | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path | None:
        """Where the recipe's file lies: own factories are looked for there too. None for one given as data."""
        return self._folder

    @model_validator(mode="after")
    def _shares_leave_samples(self) -> Recipe:
        shares = [p for p in (self.data.test, self.data.validation, self.data.calibration) if isinstance(p, float)]
        if sum(shares) >= 1:
            raise ValueError("data.test, data.validation and data.calibration together leave nothing to train on")
        return self

    def effective_sections(self) -> dict[str, Any]:
        """Return every section's effective settings, as JSON data."""
        sections = {key: getattr(self, key) for key in type(self).model_fields}
        return {key: value.effective() if isinstance(value, Settings) else value for key, value in sections.items()}


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: The TOML file. Paths in it are relative to its folder.
        overrides: `"section.key=value"` each, value in TOML; what is no TOML value is taken as text. Paths in
            them are relative to the current folder.

    Raises:
        RecipeError: the file is missing, is no TOML, or asks for something impossible.
    """
    path = Path(path)
    with reading(path, RecipeError, "recipe"):
        text = path.read_bytes()
    try:
        document = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not a TOML file: {error}") from error
    _resolve_paths(document, path.resolve().parent, str(path))
    for override in overrides:
        _override(document, override)
    recipe = parse_recipe(document, str(path))
    recipe._folder = path.resolve().parent
    return recipe


def parse_recipe(document: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Check a recipe given as data (`where` names it in messages). See `load_recipe`."""
    problems = list(_not_plain(document))
    if problems:
        raise RecipeError("\n".join(f"{where}: {problem}" for problem in problems))
    try:
        # JSON mode: strict, yet lists stand for tuples and text for paths
        recipe = Recipe.model_validate_json(json.dumps(document, default=os.fspath))
    except ValidationError as error:
        problems = [_explain(detail, document) for detail in error.errors()]
        raise RecipeError("\n".join(f"{where}: {problem}" for problem in problems)) from error
    for key, value, wanted in _paths(recipe):
        found = _kind(value)
        if found is None:
            raise RecipeError(f"{where}: {key} = {str(value)!r}: no such file or folder")
        if found != wanted:
            raise RecipeError(f"{where}: {key} = {str(value)!r}: this is a {found}; expected a {wanted}")
    return recipe


def _kind(path: Path) -> Literal["file", "folder"] | None:
    try:
        return "file" if path.is_file() else "folder" if path.is_dir() else None
    except OSError:  # no permission, or too long a name
        return None


def _not_plain(value: object, dotted: str = "") -> Iterator[str]:
    """Say what JSON cannot hold: NaN, infinity, dates, integers of thousands of digits."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_plain(inner, f"{dotted}.{key}" if dotted else str(key))
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from _not_plain(inner, f"{dotted}.{position}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield f"{dotted} = {json.dumps(value)}: input should be a finite number"
    elif isinstance(value, int):
        if abs(value) >= 2**63:
            yield f"{dotted}: input should be an integer of at most 64 bits"
    elif not isinstance(value, str | os.PathLike | None):
        yield f"{dotted} = {value}: input should be text, a number, true or false, a list or a table"


def _paths(recipe: Recipe) -> Iterable[tuple[str, Path, Literal["file", "folder"]]]:
    """Yield the key, the path and the kind of everything that a recipe reads."""
    if not isinstance(recipe.data, DigitsData):
        yield "data.path", recipe.data.path, "file" if isinstance(recipe.data, NpzData) else "folder"
    if recipe.teacher.checkpoint is not None:
        yield "teacher.checkpoint", recipe.teacher.checkpoint, "file"
    if recipe.teacher.onnx is not None:
        yield "teacher.onnx", recipe.teacher.onnx, "file"
    if recipe.teacher.contract is not None:
        yield "teacher.contract", recipe.teacher.contract, "file"


def _resolve_paths(table: dict[str, Any], folder: Path, where: str) -> None:
    for key, value in table.items():
        if isinstance(value, dict) and key != "arguments":
            _resolve_paths(value, folder, where)
        elif key in PATH_KEYS and isinstance(value, str):
            expanded = os.path.expandvars(value)
            if "$" in expanded:
                raise RecipeError(f"{where}: {key} = {value!r}: this environment variable is not set")
            try:
                table[key] = str(folder / Path(expanded).expanduser())
            except RuntimeError as error:  # ~ of a user who is not known
                raise RecipeError(f"{where}: {key} = {value!r}: {error}") from error


def read_setting(text: str, option: str, example: str) -> tuple[str, Any]:
    """Return key and value of `"key=value"`, value in TOML; what is no TOML value is taken as text."""
    key, equals, written = text.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise RecipeError(f"{option} {text}: expected key=value, such as {example}")
    try:
        return key.strip(), tomllib.loads(f"value = {written}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), written.strip()


def _override(document: dict[str, Any], override: str) -> None:
    dotted, value = read_setting(override, "--set", "quantize.samples=64")
    keys = dotted.split(".")
    table = document
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override}: {key!r} is not a section of the recipe")
    leaf = {keys[-1]: value}
    if "arguments" not in keys:  # those of a user's own factory are not touched
        _resolve_paths(leaf, Path.cwd(), f"--set {override}")
    table.update(leaf)


def _explain(detail: ErrorDetails, document: Mapping[str, Any]) -> str:
    """Return one line for one problem: key path, value, what is allowed, the nearest known key."""
    path, parent, found = _locate(detail["loc"], document, absent=detail["type"] == "missing")
    dotted = ".".join(path)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(path[:-1], parent)
        return f"unknown key {dotted!r}{nearest(path[-1], known)}; known here: {', '.join(sorted(known))}"
    context = detail.get("ctx", {})
    tag = str(context.get("discriminator", "")).strip("'")  # the key that says which table this is
    if detail["type"] in ("missing", "union_tag_not_found"):
        missing = dotted if detail["type"] == "missing" else f"{dotted}.{tag}"
        return f"the key {missing!r} is missing"
    message = sentence(detail)
    if detail["type"] == "union_tag_invalid":
        path, found = [*path, tag], context.get("tag")
        allowed = str(context.get("expected_tags", "")).replace("'", "").split(", ")
        message = f"must be one of: {', '.join(allowed)}{nearest(str(found), allowed)}"
    if not path:
        return message
    if isinstance(found, dict) and detail["type"] == "value_error":
        return f"{'.'.join(path)}: {message}"
    return f"{'.'.join(path)} = {json.dumps(found, default=str)}: {message}"


def _locate(
    loc: Sequence[int | str], document: Mapping[str, Any], *, absent: bool
) -> tuple[list[str], Mapping[str, Any], Any]:
    """Walk an error's location through the document; parts that name a union's branch are no keys.

    With `absent` the last part names a key that is missing.
    """
    path: list[str] = []
    parent: Mapping[str, Any] = document
    value: Any = document
    for position, part in enumerate(loc):
        if isinstance(value, dict) and (part in value or (absent and position == len(loc) - 1)):
            parent, value = value, value.get(str(part))
            path.append(str(part))
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else None
            path.append(str(part))
    return path, parent, value


def _known_keys(path: Sequence[str], table: Mapping[str, Any]) -> list[str]:
    """Return the keys allowed in the section at `path`, whose content is `table`."""
    if not path:
        return list(Recipe.model_fields)
    if path[0] == "data":
        branches: dict[str, type[BaseModel]] = {
            "digits": DigitsData,
            "idx": IdxData,
            "image-folder": ImageFolderData,
            "npz": NpzData,
        }
        return list(branches[table["source"]].model_fields)
    if path[:2] == ["distill", "terms"]:
        return list(KINDS[table["kind"]].model_fields)
    section: type[BaseModel] = Recipe
    for key in path:
        annotation = section.model_fields[key].annotation
        kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        section = next(kind for kind in kinds if issubclass(kind, BaseModel))
    return list(section.model_fields)


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
