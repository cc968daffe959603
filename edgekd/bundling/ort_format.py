"""Models in onnxruntime's own format, and which operators a runtime has to have that was built for them alone.

An .ort file holds the graph as onnxruntime optimizes it, so it loads in a fraction of the time and needs no
optimizer: a minimal build (https://onnxruntime.ai/docs/build/custom.html) reads nothing else, and can leave out every
kernel that the configuration does not name. The layout of fp32 convolutions that x86 prefers is not among these
optimizations: an fp32 .ort file is slower there. INT8 files lose nothing.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import onnxruntime

from edgekd.errors import ModelError
from edgekd.onnx_versions import CONTRIB, least_for_contrib, version_key
from edgekd.runtime import open_model
from edgekd.temporary import temporary_folder, temporary_room

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgekd.bundling.variants import Variant

CONFIG: Final = "required_operators_and_types.config"
# Of the format, and the release that brought it (onnxruntime's developers in its issue 20670).
_VERSION, _SINCE = b"6", "1.16.0"
SLOW: Final = (
    "an fp32 or fp16 .ort file is up to three times slower on x86 than the .onnx file: bundle that with --format onnx"
)


def in_ort_format(variants: Sequence[Variant]) -> tuple[tuple[Variant, ...], str]:
    """Return the variants in onnxruntime's format, and the configuration of a build for them alone.

    Raises:
        ModelError: onnxruntime cannot write one.
        OutputError: there is no room for temporary files.
    """
    with temporary_folder() as folder:
        given, made = folder / "onnx", folder / "ort"
        with temporary_room():
            given.mkdir()
            for number, variant in enumerate(variants):
                (given / f"{number}.onnx").write_bytes(variant.content)
        _convert(given, made)
        contents = [(made / f"{number}.ort").read_bytes() for number in range(len(variants))]
        # what begins with # names folders of this machine
        lines = (made / CONFIG).read_text().splitlines()
    config = "".join(f"{line}\n" for line in lines if not line.startswith("#"))
    operators = _operators(config)
    return tuple(
        _converted(variant, content, operators) for variant, content in zip(variants, contents, strict=True)
    ), config


def _convert(given: Path, made: Path) -> None:
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves closing files to the garbage collector
            convert_onnx_models_to_ort(
                given, output_dir=made, optimization_styles=[OptimizationStyle.Fixed], enable_type_reduction=True
            )
    except Exception as error:  # whatever it stumbles over
        raise ModelError(f"onnxruntime cannot write these models in its own format: {error}") from error


def _converted(variant: Variant, content: bytes, operators: Mapping[str, frozenset[str]]) -> Variant:
    return replace(
        variant,
        path=variant.path.removesuffix(".onnx") + ".ort",
        format="ort",
        content=content,
        sha256=sha256(content).hexdigest(),
        model=open_model(content, name=f"{variant.source} in onnxruntime's format"),
        least=_least(variant, content, operators),
        operators=operators,
    )


def _least(variant: Variant, content: bytes, operators: Mapping[str, frozenset[str]]) -> str:
    """Return the oldest onnxruntime that reads the file; this one, where others are not known to."""
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    kernels = least_for_contrib(operators.get(CONTRIB, ()))
    if InferenceSession.GetRootAsInferenceSession(content, 0).OrtVersion() != _VERSION or kernels is None:
        return str(onnxruntime.__version__)
    return max((variant.least, kernels, _SINCE), key=version_key)


def _operators(config: str) -> dict[str, frozenset[str]]:
    """Return the operators of a configuration, `domain;opset;Name{types},Name...`, by domain."""
    found: dict[str, set[str]] = {}
    for line in config.splitlines():
        domain, _, names = line.split(";", 2)
        depth, name = 0, ""
        for letter in f"{names},":
            depth += (letter == "{") - (letter == "}")
            if depth or letter == "}":
                continue
            if letter == ",":
                found.setdefault("" if domain == "ai.onnx" else domain, set()).add(name)
                name = ""
            else:
                name += letter
    return {domain: frozenset(names) for domain, names in found.items()}
