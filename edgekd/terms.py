"""What a student learns from: the terms of its loss with their papers, taps, and which answers count.

What the terms compute stands in `edgekd.distillation.terms`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from edgekd.settings import MOST, Settings

Weighting = Literal["fixed", "entropy", "confidence"]  # of several teachers


class TapSettings(Settings):
    """Places in both networks whose features are compared."""

    pairs: tuple[tuple[str, str], ...] = ()
    """`[student, teacher]` each: dotted module paths such as `"layer2"`, of an ONNX teacher names of tensors."""


class ConfidenceSettings(Settings):
    """Which of the teacher's answers count in terms of logits; what does not count is left to the other terms."""

    threshold: float = Field(default=0.0, ge=0, le=1)
    """An answer whose largest probability is below counts nothing."""
    soft: bool = False
    """An answer counts by its largest probability instead of 1."""
    only_correct: bool = False
    """An answer that contradicts the label counts nothing."""

    @property
    def takes_all(self) -> bool:
        """Whether every answer counts the same."""
        return self.threshold == 0 and not self.soft and not self.only_correct


class CacheSettings(Settings):
    """Stored answers of the teacher: asked once, looked up in every later epoch and run."""

    views: int = Field(default=1, ge=1, le=10_000)
    """Augmented views of an image; epoch e sees view e mod this number. With no augmentation there is one."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the views' augmentation, whatever the recipe's seed: runs with several seeds share the answers."""
    top_k: int | None = Field(default=None, ge=1, le=MOST)
    """Store so many of the largest logits and the sum of the rest, for many classes. None: all logits, as float16."""
    path: Path | None = None
    """A folder to share between runs, relative to the recipe; in the run's own folder by default."""


class SynthesisSettings(Settings):
    """Images made from the teacher's batch normalisations: DeepInversion (Yin et al. 2020, arXiv:1912.08795)."""

    samples: int = Field(default=2000, ge=1, le=MOST)
    """Images to make, as many of each class."""
    batch: int = Field(default=250, ge=2, le=1_000_000)
    """Images that are made together: their common statistics are held against the teacher's."""
    steps: int = Field(default=500, ge=1, le=MOST)
    """Steps of Adam for a batch of images."""
    learning_rate: float = Field(default=0.1, ge=1e-12, le=1000)
    """Of the images' pixels, in units of the network's input; it falls to zero on half a cosine."""
    statistics: float = Field(default=1.0, ge=0, le=1e6)
    """Weight of the distance from the teacher's statistics, beside the cross-entropy with the wanted class."""
    smoothness: float = Field(default=0.01, ge=0, le=1e6)
    """Weight of the mean squared difference of neighbouring pixels."""


class TermSettings(Settings):
    """What every term has."""

    asks_teacher: ClassVar[bool] = True  # whether it looks at the teacher's answers

    weight: float = Field(default=1.0, ge=0, le=1e6)
    """Factor of the term in the loss."""
    weight_end: float | None = Field(default=None, ge=0, le=1e6)
    """The weight at the end of the term's time, which it nears linearly. None: it stays."""
    start: float = Field(default=0.0, ge=0, lt=1)
    """The term counts from this share of the training on."""
    stop: float = Field(default=1.0, ge=0.001, le=1)
    """The term counts up to this share of the training: hints first, then logits."""

    @model_validator(mode="after")
    def _has_time(self) -> TermSettings:
        if self.start >= self.stop:
            raise ValueError(f"start = {self.start:g} must be below stop = {self.stop:g}")
        return self

    def counts(self, share: float) -> bool:
        """Say whether the term counts when that share of the training, in [0, 1), is done."""
        return self.start <= share < self.stop

    def weight_at(self, share: float) -> float:
        """Return its weight when that share of the training is done."""
        return self._between(self.weight, self.weight_end, share)

    def _between(self, first: float, last: float | None, share: float) -> float:
        if last is None:
            return first
        return first + (last - first) * (share - self.start) / (self.stop - self.start)


class SoftTerm(TermSettings):
    """A term of softened logits."""

    temperature: float = Field(default=4.0, ge=0.01, le=1000)
    """Softens both distributions; the term is multiplied by its square."""
    temperature_end: float | None = Field(default=None, ge=0.01, le=1000)
    """The temperature at the end of the term's time, which it nears linearly. None: it stays."""

    def temperature_at(self, share: float) -> float:
        """Return its temperature when that share of the training is done."""
        return self._between(self.temperature, self.temperature_end, share)


class PairTerm(TermSettings):
    """A term of features or of their relations, averaged over pairs of taps."""

    pairs: tuple[Annotated[int, Field(ge=0, le=MOST)], ...] = ()
    """Numbers, from 0, of the pairs in `distill.taps` that it looks at; all by default."""


class CeTerm(TermSettings):
    """Cross-entropy with the labels."""

    asks_teacher: ClassVar[bool] = False
    kind: Literal["ce"]
    """Which loss."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a label that is spread over all classes, where labels alone are learnt from."""


class KdTerm(SoftTerm):
    """KD: divergence from the teacher's softened answers (Hinton et al. 2015, arXiv:1503.02531)."""

    kind: Literal["kd"]
    """Which loss."""


class DkdTerm(SoftTerm):
    """Decoupled KD: how sure of the label, and what of the rest (Zhao et al. 2022, arXiv:2203.08679)."""

    kind: Literal["dkd"]
    """Which loss."""
    alpha: float = Field(default=1.0, ge=0, le=1e6)
    """`dkd`: weight of how sure of the label both are."""
    beta: float = Field(default=8.0, ge=0, le=1e6)
    """`dkd`: weight of what the others get. `dist`: of the relation among classes. `js`: share of the teacher."""


class DistTerm(SoftTerm):
    """DIST: correlation of probabilities within samples and within classes (Huang et al. 2022, arXiv:2205.10536)."""

    kind: Literal["dist"]
    """Which loss."""
    beta: float = Field(default=1.0, ge=0, le=1e6)
    """`dkd`: weight of what the others get. `dist`: of the relation among classes. `js`: share of the teacher."""
    gamma: float = Field(default=1.0, ge=0, le=1e6)
    """`dist`: weight of the relation among samples. `cc`: of the kernel `exp(-gamma |a - b|^2)`."""


class LskdTerm(SoftTerm):
    """KD of standardised logits (Sun et al. 2024, arXiv:2403.01427)."""

    kind: Literal["lskd"]
    """Which loss."""
    temperature: float = Field(default=2.0, ge=0.01, le=1000)
    """Softens both distributions; the term is multiplied by its square."""


class ReverseKlTerm(SoftTerm):
    """Divergence the other way round, KL(student || teacher) (Gu et al. 2023, arXiv:2306.08543)."""

    kind: Literal["reverse-kl"]
    """Which loss."""


class JsTerm(SoftTerm):
    """Generalised Jensen-Shannon divergence (Agarwal et al. 2023, arXiv:2306.13649)."""

    kind: Literal["js"]
    """Which loss."""
    beta: float = Field(default=0.5, ge=0.001, le=0.999)
    """`dkd`: weight of what the others get. `dist`: of the relation among classes. `js`: share of the teacher."""


class SigmoidKdTerm(SoftTerm):
    """KD of each class for itself, for labels that occur together (Yang et al. 2023, arXiv:2308.06453)."""

    kind: Literal["sigmoid-kd"]
    """Which loss."""
    temperature: float = Field(default=1.0, ge=0.01, le=1000)
    """Softens both distributions; the term is multiplied by its square."""


class HintTerm(PairTerm):
    """FitNets' hint: squared difference of adapted features (Romero et al. 2015, arXiv:1412.6550)."""

    kind: Literal["hint"]
    """Which loss."""


class AttentionTerm(PairTerm):
    """Attention transfer: where both look (Zagoruyko and Komodakis 2017, arXiv:1612.03928)."""

    kind: Literal["at"]
    """Which loss."""
    weight: float = Field(default=1000.0, ge=0, le=1e6)
    """Factor of the term in the loss."""
    power: float = Field(default=2.0, ge=1, le=100)
    """`at`: of the activations in a place's attention."""


class VidTerm(PairTerm):
    """Variational information distillation: a Gaussian around features (Ahn et al. 2019, arXiv:1904.05835)."""

    kind: Literal["vid"]
    """Which loss."""


class RkdDistanceTerm(PairTerm):
    """Relational KD by distances between samples (Park et al. 2019, arXiv:1904.05068)."""

    kind: Literal["rkd-distance"]
    """Which loss."""
    weight: float = Field(default=25.0, ge=0, le=1e6)
    """Factor of the term in the loss."""


class RkdAngleTerm(PairTerm):
    """Relational KD by angles between samples (Park et al. 2019, arXiv:1904.05068)."""

    kind: Literal["rkd-angle"]
    """Which loss."""
    weight: float = Field(default=50.0, ge=0, le=1e6)
    """Factor of the term in the loss."""


class SpTerm(PairTerm):
    """Similarity-preserving KD: Gram matrices of a batch (Tung and Mori 2019, arXiv:1907.09682)."""

    kind: Literal["sp"]
    """Which loss."""
    weight: float = Field(default=3000.0, ge=0, le=1e6)
    """Factor of the term in the loss."""


class PktTerm(PairTerm):
    """Probabilistic knowledge transfer: who is whose neighbour (Passalis and Tefas 2018, arXiv:1803.10837)."""

    kind: Literal["pkt"]
    """Which loss."""


class CcTerm(PairTerm):
    """Correlation congruence: a Gaussian kernel's series over a batch (Peng et al. 2019, arXiv:1904.01802)."""

    kind: Literal["cc"]
    """Which loss."""
    gamma: float = Field(default=0.4, ge=0.001, le=100)
    """`dist`: weight of the relation among samples. `cc`: of the kernel `exp(-gamma |a - b|^2)`."""
    order: int = Field(default=2, ge=1, le=20)
    """`cc`: terms of the kernel's series."""


class DeepSupervisionTerm(SoftTerm):
    """Self-distillation: heads on inner places learn from the last stage (Zhang et al. 2019, arXiv:1905.08094)."""

    asks_teacher: ClassVar[bool] = False
    kind: Literal["deep-supervision"]
    """Which loss."""
    places: tuple[str, ...] = Field(min_length=1, max_length=100)
    """Dotted module paths in the student, such as `"layer1"`; each gets a head of its own."""
    temperature: float = Field(default=3.0, ge=0.01, le=1000)
    """Softens both distributions; the term is multiplied by its square."""
    last_stage: float = Field(default=0.3, ge=0, le=1)
    """Weight of the last stage's word against the label's."""


class MutualTerm(SoftTerm):
    """Deep mutual learning: divergence from each student that trains along (Zhang et al. 2018, arXiv:1706.00384)."""

    asks_teacher: ClassVar[bool] = False
    kind: Literal["mutual"]
    """Which loss."""
    temperature: float = Field(default=1.0, ge=0.01, le=1000)
    """Softens both distributions; the term is multiplied by its square."""


AnyTerm = (
    CeTerm
    | KdTerm
    | DkdTerm
    | DistTerm
    | LskdTerm
    | ReverseKlTerm
    | JsTerm
    | SigmoidKdTerm
    | HintTerm
    | AttentionTerm
    | VidTerm
    | RkdDistanceTerm
    | RkdAngleTerm
    | SpTerm
    | PktTerm
    | CcTerm
    | DeepSupervisionTerm
    | MutualTerm
)
KINDS: dict[str, type[AnyTerm]] = {
    get_args(term.model_fields["kind"].annotation)[0]: term for term in get_args(AnyTerm)
}


def listed_settings(kind: str) -> list[str]:
    """Return a kind's own settings and its weight with their defaults, `"weight = 1.0"` each."""
    fields = KINDS[kind].model_fields
    left_out = {"kind", *TermSettings.model_fields} - {"weight"}
    defaults = {
        name: "required" if field.is_required() else field.default
        for name, field in fields.items()
        if name not in left_out
    }
    return [f"{name} = {'none' if value in (None, ()) else value}" for name, value in sorted(defaults.items())]
