"""The manifest of a bundle, made from its parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import onnxruntime

import edgekd
from edgekd.bundling import manifest as form
from edgekd.bundling.golden import runs_of
from edgekd.bundling.preparation import prepared, sample_images, tensor_sha256
from edgekd.bundling.tokenizer import add_tokenizer
from edgekd.bundling.variants import PLACES, choose
from edgekd.errors import DataError, reading
from edgekd.onnx_versions import version_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgekd.bundling.contents import Contents
    from edgekd.bundling.golden import Answers, Arrays
    from edgekd.bundling.variants import Variant
    from edgekd.data import Contract

_NOTICES: Final = {"onnxruntime": "LICENSE", "parts of onnxruntime": "ThirdPartyNotices.txt"}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a manifest speaks of.

    Attributes:
        variants: The models.
        contract: How images become their input, where they take any.
        inputs: The golden inputs.
        made_up: The golden inputs are, instead of taken from data.
        answered: What each model answers to them, by its path in the bundle.
        tokenizer: A `tokenizer.json`, for models that take texts.
        benchmark: A result of `edgekd bench`, with the bundle's paths.
        licences: Files that the user's own licences are in.
    """

    variants: Sequence[Variant]
    contract: Contract | None
    inputs: Arrays
    made_up: bool
    answered: Mapping[str, Answers]
    tokenizer: Path | None
    benchmark: dict[str, Any] | None
    licences: Sequence[Path]


def describe(parts: Parts, contents: Contents) -> form.Manifest:
    """Return the manifest of a bundle, and add to its contents the files that the manifest lists.

    Raises:
        DataError: a licence or the tokenizer cannot be read.
        UsageError: the tokenizer is of a kind that cannot be bundled.
        ModelError: there is a tokenizer, and the models have no input for token numbers.
        MissingExtraError: there is one, and the package tokenizers is not installed.
    """
    variants, contract, model = parts.variants, parts.contract, parts.variants[0].model
    text, texts = (None, []) if parts.tokenizer is None else add_tokenizer(parts.tokenizer, model, contents)
    return form.Manifest(
        name=variants[0].source.name.split(".")[0] or "model",
        edgekd=edgekd.__version__,
        variants=[_variant(variant, contents) for variant in variants],
        runtime=_runtime(variants),
        inputs=[_value(spec) for spec in model.inputs],
        outputs=[_value(spec) for spec in model.outputs],
        image=image_of(contract),
        text=text,
        labels=[] if contract is None else list(contract.labels),
        targets=_targets(variants, parts.answered, contents),
        golden=_golden(parts, contents),
        preparation=form.Preparation(images=_image_vectors(contract, contents), texts=texts),
        benchmark=parts.benchmark,
        licences=_licences(parts.licences, contents),
        files=contents.listed(),  # the last: all others have added theirs
    )


def _variant(variant: Variant, contents: Contents) -> form.Variant:
    return form.Variant(
        path=contents.put(variant.path, variant.content),
        precision=variant.precision,
        format=variant.format,
        made_for=variant.made_for,
        right_on=list(variant.right_on),
        session=form.Session.model_validate(variant.setting.to_json()),
    )


def _runtime(variants: Sequence[Variant]) -> form.Runtime:
    opsets: dict[str, int] = {}
    operators: dict[str, set[str]] = {}
    for variant in variants:
        for domain, version in variant.opsets.items():
            opsets[domain] = max(version, opsets.get(domain, 0))
        for domain, names in variant.operators.items():
            operators.setdefault(domain, set()).update(names)
    return form.Runtime(
        onnxruntime=form.Versions(
            least=max((variant.least for variant in variants), key=version_key),
            tested=onnxruntime.__version__,
        ),
        ir_version=max(variant.ir_version for variant in variants),
        opsets=opsets,
        operators={domain: sorted(names) for domain, names in operators.items()},
    )


def _value(spec: Any) -> form.Value:
    dtype = spec.dtype.removeprefix("tensor(").removesuffix(")")
    return form.Value(
        name=spec.name, dtype={"float": "float32", "double": "float64"}.get(dtype, dtype), shape=list(spec.shape)
    )


def image_of(contract: Contract | None) -> form.Image | None:
    """Return how pixels become the input; None where the model takes no image."""
    if contract is None or contract.layout == "as-is" or contract.colour is None:
        return None
    height, width = contract.size
    return form.Image(
        colour=contract.colour,
        layout=contract.layout,
        height=height,
        width=width,
        mean=list(contract.mean),
        std=list(contract.std),
    )


def _targets(
    variants: Sequence[Variant], answered: Mapping[str, Answers], contents: Contents
) -> dict[str, form.Choice]:
    chosen = {target: choose(variants, target) for target in PLACES}
    return {
        target: form.Choice(
            model=variant.path, expected=_expected(variants.index(variant), answered[variant.path], target, contents)
        )
        for target, variant in chosen.items()
        if variant is not None
    }


def _expected(number: int, found: Answers, target: str, contents: Contents) -> form.Expected:
    place, outputs = found.of(target)
    tensors = [
        contents.tensor(f"golden/expected-{number}-{place.target}-{index}.bin", *item)
        for index, item in enumerate(outputs.items())
    ]
    return form.Expected(
        target=place.target,
        device=place.device,
        outputs=[form.Output(**dict(tensor), tolerance=found.tolerance[tensor.name]) for tensor in tensors],
    )


def _golden(parts: Parts, contents: Contents) -> form.Golden:
    return form.Golden(
        runs=runs_of(parts.inputs),
        source="synthetic" if parts.made_up else "data",
        inputs=[contents.tensor(f"golden/input-{n}.bin", *item) for n, item in enumerate(parts.inputs.items())],
    )


def _image_vectors(contract: Contract | None, contents: Contents) -> list[form.ImageVector]:
    if contract is None or contract.layout == "as-is":
        return []
    return [
        form.ImageVector(
            pixels=contents.tensor(f"golden/image-{index}.bin", f"image-{index}", pixels),
            sha256=tensor_sha256(prepared(pixels, contract)),
        )
        for index, pixels in enumerate(sample_images(contract))
    ]


def _licences(paths: Sequence[Path], contents: Contents) -> list[form.Licence]:
    folder = Path(onnxruntime.__file__).parent
    notices = [(component, folder / name) for component, name in _NOTICES.items() if (folder / name).is_file()]
    entries = []
    for number, (component, path) in enumerate([*notices, *((path.stem, path) for path in paths)]):
        with reading(path, DataError, "licence file"):
            content = path.read_bytes()
        entries.append(form.Licence(component=component, path=contents.add(f"licences/{number}.txt", content)))
    return entries
