"""The models of a bundle: what each is, on which targets it is right, and which one a target gets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import onnx
import onnxruntime

from edgekd.benchmarking.session_file import DEFAULT, Setting
from edgekd.errors import ModelError, UsageError
from edgekd.onnx_versions import least_onnxruntime
from edgekd.quantization.saturation import certify
from edgekd.runtime import open_model, parse_model, read_self_contained
from edgekd.targets import TARGETS, Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgekd.runtime import Model

WASM: Final = Target(name="wasm", machine="wasm32")  # multiplies in 16 bits and adds in 32: nothing saturates
PLACES: Final[Mapping[str, Target]] = {**TARGETS, WASM.name: WASM}
_PRECISIONS: Final = ("int8", "fp16", "fp32")  # the smaller, the better, where all are right


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model file.

    Attributes:
        source: Where it was found.
        path: Where it lies in the bundle.
        content: Of the file, its weights inside.
        model: Open on this machine.
        precision: Of its weights.
        made_for: The target that its metadata name; None if they name none.
        right_on: Names of the targets on which it cannot saturate.
        sha256: Of the content, in hex.
        least: The oldest onnxruntime that reads it.
        ir_version: Of its format.
        opsets: Versions of its operators by domain.
        operators: Names of its operators by domain.
        format: Of the file.
        setting: What a session is opened with.
    """

    source: Path
    path: str
    content: bytes
    model: Model
    precision: Literal["int8", "fp16", "fp32"]
    made_for: str | None
    right_on: tuple[str, ...]
    sha256: str
    least: str
    ir_version: int
    opsets: Mapping[str, int]
    operators: Mapping[str, frozenset[str]]
    format: Literal["onnx", "ort"] = "onnx"
    setting: Setting = DEFAULT


def open_variants(sources: Sequence[Path], setting: Setting = DEFAULT) -> tuple[Variant, ...]:
    """Open the models of a bundle.

    Raises:
        ModelError: a file is missing or damaged, or they do not take and give the same.
        UsageError: two have one name.
    """
    variants: list[Variant] = []
    for source in sources:
        variant = _open(source, setting)
        if any(other.path == variant.path for other in variants):
            raise UsageError(f"{source}: two models of the name {source.name}; rename one of them")
        if any(other.sha256 == variant.sha256 for other in variants):
            raise UsageError(f"{source}: this model is given twice")
        variants.append(variant)
        first = variants[0].model
        if (first.inputs, first.outputs) != (variant.model.inputs, variant.model.outputs):
            raise ModelError(
                f"{source}: takes or gives something else than {sources[0]}; the models of a bundle stand for each "
                "other: same names, types and shapes of inputs and outputs"
            )
        if first.contract != variant.model.contract:
            raise ModelError(f"{source}: its input contract is not that of {sources[0]}; bundle them apart")
    return tuple(variants)


def _open(source: Path, setting: Setting) -> Variant:
    model = open_model(source)
    content = read_self_contained(source)
    proto = parse_model(content, str(source))
    certificate = certify(proto, TARGETS["x86-avx2"])  # whatever saturates anywhere saturates there
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in proto.graph.initializer)
    integers = bool(certificate.layers)
    operators: dict[str, set[str]] = {}
    for node in proto.graph.node:
        operators.setdefault(node.domain, set()).add(node.op_type)
    return Variant(
        source=source,
        path=f"models/{_plain(source.name).removesuffix('.onnx')}.onnx",
        content=content,
        model=model,
        precision="int8" if integers else "fp16" if halves else "fp32",
        made_for=model.metadata.get("edgekd.target"),
        right_on=tuple(name for name, it in PLACES.items() if not (it.pairs_saturate and certificate.saturating)),
        sha256=hashlib.sha256(content).hexdigest(),
        least=least_onnxruntime(proto) or onnxruntime.__version__,  # which has opened it
        ir_version=proto.ir_version,
        opsets={entry.domain: entry.version for entry in proto.opset_import},
        operators={domain: frozenset(names) for domain, names in operators.items()},
        setting=setting,
    )


def _plain(name: str) -> str:
    """Return a file name of the letters that every system takes."""
    letters = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in name
    )
    return letters.lstrip(".-") or "model.onnx"


def choose(variants: Sequence[Variant], target: str) -> Variant | None:
    """Return the variant that a target gets; None if none is right there.

    One that was made for the target comes first, then int8, fp16, fp32, then the order given. A browser whose kernels
    were built with relaxed SIMD adds in 16 bits, too: there a file that saturates nowhere comes before one that does.
    """

    def rank(variant: Variant) -> tuple[bool, int, bool]:
        risky = target == WASM.name and len(variant.right_on) < len(PLACES)
        return variant.made_for != target, _PRECISIONS.index(variant.precision), risky

    return min((variant for variant in variants if target in variant.right_on), key=rank, default=None)
