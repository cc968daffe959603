"""The settings of a recipe, one class a stage: strict and frozen. `recipe_file.py` reads them from TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from edgekd.data_settings import DataSettings
from edgekd.settings import Count, Settings
from edgekd.terms import (
    KINDS,
    AnyTerm,
    CacheSettings,
    CeTerm,
    ConfidenceSettings,
    DeepSupervisionTerm,
    KdTerm,
    MutualTerm,
    PairTerm,
    SynthesisSettings,
    TapSettings,
    Weighting,
)
from edgekd.text import nearest

Temperature = Annotated[float, Field(ge=0.01, le=1000)]
Unit = Annotated[float, Field(ge=0, le=1)]
LEAST_RATE, HIGHEST_RATE = 1e-12, 1000.0
Rate = Annotated[float, Field(ge=LEAST_RATE, le=HIGHEST_RATE)]


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
    """Passes over the training samples."""
    keep: Literal["best", "last"] = "best"
    """The weights of which epoch the network ends with: the best one on the validation split, or the last one."""
    batch_size: int = Field(default=64, ge=1, le=1_000_000)
    """Samples in a batch, of all processes together."""
    accumulate: int = Field(default=1, ge=1, le=10_000)
    """Batches in a step: their gradients are added up, as if one batch were so many times as large."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """In what the network computes while it is trained; weights and losses stay in fp32. `fp16` needs a GPU."""
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
    weight: float = Field(default=1.0, ge=0, le=1e6)
    """How much its logits count beside those of other teachers."""

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
    weighting: Weighting = "fixed"
    """Of several teachers: by their `weight` alone, or for each sample also by how sure a teacher is (`"entropy"`) or
    how near the label (`"confidence"`: CA-MKD, Zhang et al. 2022, arXiv:2201.00007)."""
    cache: CacheSettings | None = None
    """Ask the teacher once and store its answers on disk. None: it runs in every step."""
    control: bool = True
    """Train the same student without a teacher as well, to show what distillation gains."""
    seeds: int = Field(default=1, ge=1, le=100)
    """Train student and control with so many seeds, from the recipe's on, to show what chance alone changes. The best
    student on the validation split is kept."""

    data_free: SynthesisSettings | None = None
    """The student learns from images made from `[teacher]`, in place of the training samples."""
    peers: int = Field(default=1, ge=1, le=100)
    """Train so many students together that learn from each other, too, by the term `mutual`: deep mutual learning
    (Zhang et al. 2018, arXiv:1706.00384). The best on the validation split is kept."""
    generations: int = Field(default=1, ge=1, le=100)
    """Train the student so many times, each time anew, taught by the one before and at first by the teacher:
    born-again networks (Furlanello et al. 2018, arXiv:1805.04770). The last is kept."""

    @model_validator(mode="after")
    def _later_generations_have_other_answers(self) -> DistillSettings:
        if self.generations > 1 and self.cache is not None and self.cache.path is not None:
            raise ValueError("cache.path names answers of one teacher; each of several generations has its own")
        return self

    @model_validator(mode="after")
    def _peers_and_mutual_go_together(self) -> DistillSettings:
        mutual = any(isinstance(term, MutualTerm) for term in self.terms)
        if mutual and self.peers == 1:
            raise ValueError("the term 'mutual' is of students that train together: set peers = 2 or more")
        if self.terms and self.peers > 1 and not mutual:
            raise ValueError(f"peers = {self.peers}, but none of the terms is 'mutual'")
        return self

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
        weighty = [term for term in self.terms if term.weight or term.weight_end]
        for share in sorted({0.0} | {term.stop for term in self.terms if term.stop < 1}):
            if not any(term.counts(share) for term in weighty):
                raise ValueError(f"no term counts from {share:g} of the training on")
        return self

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of taps, where a term looks at features; else none."""
        return self.taps.pairs if any(isinstance(term, PairTerm) for term in self.terms) else ()

    @property
    def places(self) -> tuple[str, ...]:
        """The places of the student that terms look at by themselves."""
        found = [place for term in self.terms if isinstance(term, DeepSupervisionTerm) for place in term.places]
        return tuple(dict.fromkeys(found))

    def next_generation(self) -> DistillSettings:
        """Return the settings of a student whose teacher is a student: a place of it is compared with itself."""
        taps = TapSettings(pairs=tuple((ours, ours) for ours, _ in self.taps.pairs))
        return self.model_copy(update={"taps": taps})

    def loss_terms(self) -> tuple[AnyTerm, ...]:
        """Return the terms of the loss: those given, or KD and cross-entropy weighed by alpha, and what peers say."""
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
            *([MutualTerm(kind="mutual")] if self.peers > 1 else []),
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


_METHODS = [kind for kind, term in KINDS.items() if term.asks_teacher]


def _method(value: str) -> str:
    if value not in _METHODS:
        raise ValueError(f"must be one of: {', '.join(_METHODS)}{nearest(value, _METHODS)}")
    return value


Method = Annotated[str, AfterValidator(_method), Field(json_schema_extra={"enum": _METHODS})]


def _range(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the lower bound {value[0]:g} is above the upper bound {value[1]:g}")
    return value


class SearchSettings(Settings):
    """What `edgekd distill --search` tries. Two equal bounds hold a setting fixed."""

    trials: Count = 20
    """Students to train; those of an earlier search count, so a larger number continues it."""
    methods: tuple[Method, ...] = Field(default=("kd", "dkd", "dist", "lskd", "reverse-kl", "js"), min_length=1)
    """Kinds of terms. One of logits is weighed with alpha, beside `ce`; one of features stands with its usual weight
    beside both `kd` and `ce`, and needs `distill.taps`."""
    temperature: Annotated[tuple[Temperature, Temperature], AfterValidator(_range)] = (1.0, 10.0)
    """Bounds of the temperature, which is drawn on a logarithmic scale."""
    alpha: Annotated[tuple[Unit, Unit], AfterValidator(_range)] = (0.1, 0.95)
    """Bounds of the weight of the teacher's word against the label's."""
    learning_rate: Annotated[tuple[Rate, Rate], AfterValidator(_range)] | None = None
    """Bounds of the learning rate, on a logarithmic scale; by default from a third to three times `distill`'s."""
    pruner: Literal["median", "none"] = "median"
    """Stop a trial that is worse on the validation split than the median of the earlier ones was after as many
    epochs; from a third of the epochs and five trials on."""


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
    teachers: tuple[TeacherSettings, ...] = Field(default=(), max_length=100)
    """Further teachers, one table `[[teachers]]` for each with the keys of `[teacher]`: the student learns from the
    weighed mean of the logits of all."""
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
    search: SearchSettings = SearchSettings()
    """What `edgekd distill --search` tries."""

    _folder: Path | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path | None:
        """Where the recipe's file lies: own factories are looked for there too. None for one given as data."""
        return self._folder

    @property
    def training_seeds(self) -> tuple[int, ...]:
        """The seeds that student and control are trained with."""
        return tuple((self.seed + number) % 2**32 for number in range(self.distill.seeds))

    @property
    def all_teachers(self) -> dict[str, TeacherSettings]:
        """Every teacher by its section: `teacher`, `teachers.0` and so on."""
        return {"teacher": self.teacher} | {f"teachers.{number}": found for number, found in enumerate(self.teachers)}

    @model_validator(mode="after")
    def _teachers_count(self) -> Recipe:
        if not any(teacher.weight for teacher in self.all_teachers.values()):
            raise ValueError("no teacher has a weight above 0")
        if not self.teachers and self.distill.weighting != "fixed":
            raise ValueError(
                f'distill.weighting = "{self.distill.weighting}" is for several teachers, and there is one; add '
                "[[teachers]] or leave it out"
            )
        if self.teachers and self.distill.weighting == "confidence" and self.data.transfer is not None:
            raise ValueError(
                'distill.weighting = "confidence" holds teachers against labels, and data.transfer has none; '
                'weigh by "entropy"'
            )
        return self

    @model_validator(mode="after")
    def _images_can_be_made(self) -> Recipe:
        if self.distill.data_free is None:
            return self
        if self.teacher.onnx is not None:
            raise ValueError(
                "distill.data_free makes images from the batch normalisations of a torch teacher; teacher.onnx "
                "gives no gradients and has them folded away: name a model and its checkpoint"
            )
        if self.data.transfer is not None:
            raise ValueError("distill.data_free takes the place of training samples; leave out data.transfer")
        return self

    @model_validator(mode="after")
    def _shares_leave_samples(self) -> Recipe:
        shares = [p for p in (self.data.test, self.data.validation, self.data.calibration) if isinstance(p, float)]
        if sum(shares) >= 1:
            raise ValueError("data.test, data.validation and data.calibration together leave nothing to train on")
        return self

    @model_validator(mode="after")
    def _methods_have_taps(self) -> Recipe:
        for method in self.search.methods:
            if issubclass(KINDS[method], PairTerm) and not self.distill.taps.pairs:
                raise ValueError(f"search.methods: {method!r} compares features: name them with distill.taps.pairs")
        return self

    def effective_sections(self) -> dict[str, Any]:
        """Return every section's effective settings, as JSON data."""
        sections = {key: getattr(self, key) for key in type(self).model_fields if key != "teachers"}
        effective = {
            key: value.effective() if isinstance(value, Settings) else value for key, value in sections.items()
        }
        return {**effective, "teachers": [teacher.effective() for teacher in self.teachers]}


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
