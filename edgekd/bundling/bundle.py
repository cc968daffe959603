"""The verb `bundle`: models, one manifest, and a package for each platform, in a folder that an app embeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import onnxruntime

import edgekd
from edgekd.artifact import indented_json
from edgekd.benchmarking.results import read_result
from edgekd.benchmarking.session_file import DEFAULT, read_session
from edgekd.bundling import manifest as form
from edgekd.bundling.contents import Contents, require_new, write_folder
from edgekd.bundling.golden import answers, golden_inputs, open_places
from edgekd.bundling.ort_format import CONFIG, in_ort_format
from edgekd.bundling.packages import PLATFORMS, package_files, require_platform
from edgekd.bundling.preparation import prepared, sample_images, tensor_sha256
from edgekd.bundling.readme import readme
from edgekd.bundling.signature import SIGNATURE, read_private_key
from edgekd.bundling.tokenizer import add_tokenizer
from edgekd.bundling.variants import PLACES, choose, open_variants
from edgekd.errors import DataError, UsageError, reading
from edgekd.onnx_versions import version_key
from edgekd.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgekd.bundling.golden import Answers
    from edgekd.bundling.manifest import Manifest
    from edgekd.bundling.variants import Variant
    from edgekd.data import Contract
    from edgekd.data.opening import DataLike

RUNS: Final = 4
_NOTICES: Final = {"onnxruntime": "LICENSE", "parts of onnxruntime": "ThirdPartyNotices.txt"}


def bundle(
    models: Sequence[str | Path],
    output: str | Path,
    *,
    platforms: Sequence[str],
    format: Literal["onnx", "ort"] = "onnx",  # noqa: A002 - as the option is called
    data: DataLike | None = None,
    runs: int = RUNS,
    devices: Sequence[str] = (),
    session: str | Path | None = None,
    benchmark: str | Path | None = None,
    licences: Sequence[str | Path] = (),
    tokenizer: str | Path | None = None,
    sign: str | Path | None = None,
    contract: Contract | None = None,
    labels: str = "folder",
    progress: Progress = SILENT,
) -> Manifest:
    """Write models into a folder that an app embeds, with all that proves on each platform that they are right there.

    Args:
        models: `.onnx` files that stand for each other, such as one for each target.
        output: The folder, which is not there yet.
        format: Of the bundle's models: as they are, or onnxruntime's own, for apps with a runtime of their own build.
        platforms: Names in `edgekd.bundling.packages.PLATFORMS`.
        data: Where the golden inputs are from, as `edgekd evaluate` takes it; by default they are made up.
        runs: How many golden inputs.
        devices: Profiles of devices that compute what models answer on other targets than this machine's.
        session: A file of `edgekd bench --tune`: what sessions are opened with.
        benchmark: A result of `edgekd bench` for some of the models.
        licences: Files that the user's own licences are in.
        tokenizer: A `tokenizer.json` of BERT's kind, for a model that takes token numbers.
        sign: An Ed25519 key in PEM that signs the manifest.
        contract: How images become inputs; by default what the models' own metadata say.
        labels: For data in a folder of images: `"folder"`, `"prefix"` or the name of a CSV file.
        progress: Listener.

    Returns:
        The manifest.

    Raises:
        UsageError: no such platform or device, or a model is right nowhere that it could be asked.
        ModelError: a model is missing, damaged, or differs from the others in what it takes or gives.
        DataError: the data do not fit.
        DeviceError: a device failed.
        OutputError: something is there already, or it cannot be written.
        MissingExtraError: a tokenizer or a signature needs a package that is not installed.
    """
    if not platforms:
        raise UsageError(f"a bundle needs at least one platform of {', '.join(PLATFORMS)}")
    for platform in platforms:
        require_platform(platform)
    if not models:
        raise UsageError("a bundle needs at least one model")
    require_new(Path(output))
    key = None if sign is None else read_private_key(Path(sign))
    places = open_places(devices)
    variants = open_variants([Path(model) for model in models], DEFAULT if session is None else read_session(session))
    known = contract or variants[0].model.contract
    build = None
    if format == "ort":
        variants, build = in_ort_format(variants)
    receipt = None if benchmark is None else _receipt(Path(benchmark), variants)
    inputs = golden_inputs(variants[0].model, data, contract=known, labels=labels, count=runs)
    answered = {variant.path: answers(variant, inputs, places, progress) for variant in variants}
    contents = Contents()
    text: form.Text | None = None
    text_vectors: list[form.TextVector] = []
    if tokenizer is not None:
        text, text_vectors = add_tokenizer(Path(tokenizer), variants[0].model, contents)
    manifest = form.Manifest(
        name=variants[0].source.name.split(".")[0] or "model",
        edgekd=edgekd.__version__,
        variants=[_variant(variant, contents) for variant in variants],
        runtime=_runtime(variants),
        inputs=[_value(spec) for spec in variants[0].model.inputs],
        outputs=[_value(spec) for spec in variants[0].model.outputs],
        image=_image(known),
        text=text,
        labels=[] if known is None else list(known.labels),
        targets=_targets(variants, answered, contents),
        golden=form.Golden(
            runs=len(next(iter(inputs.values()))),
            source="synthetic" if data is None else "data",
            inputs=[contents.tensor(f"golden/input-{n}.bin", *item) for n, item in enumerate(inputs.items())],
        ),
        preparation=form.Preparation(images=_image_vectors(known, contents), texts=text_vectors),
        benchmark=receipt,
        licences=_licences([Path(licence) for licence in licences], contents),
        files=contents.listed(),
    )
    write_folder(Path(output), _files(manifest, contents, platforms, build, key))
    return manifest


def _files(
    manifest: Manifest, contents: Contents, platforms: Sequence[str], build: str | None, key: Any
) -> dict[str, bytes]:
    """Return all that a bundle's folder holds, by path."""
    listing = indented_json(manifest.to_json())
    files = {form.MANIFEST: listing, **contents.files}
    if build is not None:
        files[f"build/{CONFIG}"] = build.encode()
    if key is not None:
        files[SIGNATURE] = key.sign(listing)
    for platform in platforms:
        files |= {f"{platform}/{path}": content for path, content in package_files(platform).items()}
    files["README.md"] = readme(manifest, platforms).encode()
    return files


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


def _image(contract: Contract | None) -> form.Image | None:
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


def _receipt(path: Path, variants: Sequence[Variant]) -> dict[str, Any]:
    """Return a benchmark's result with the bundle's own paths.

    Raises:
        DataError: it is none, or of other models.
    """
    read_result(path)
    content: dict[str, Any] = json.loads(path.read_bytes())
    paths = {variant.sha256: variant.path for variant in variants}
    models = [{**model, "path": paths[model["sha256"]]} for model in content["models"] if model["sha256"] in paths]
    if not models:
        raise DataError(
            f"{path}: a benchmark of other models than those of this bundle; measure them with edgekd bench"
        )
    return {**content, "models": models}


def _licences(paths: Sequence[Path], contents: Contents) -> list[form.Licence]:
    folder = Path(onnxruntime.__file__).parent
    notices = [(component, folder / name) for component, name in _NOTICES.items() if (folder / name).is_file()]
    entries = []
    for number, (component, path) in enumerate([*notices, *((path.stem, path) for path in paths)]):
        with reading(path, DataError, "licence file"):
            content = path.read_bytes()
        entries.append(form.Licence(component=component, path=contents.add(f"licences/{number}.txt", content)))
    return entries
