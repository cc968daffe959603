"""The verb `bundle`: models, one manifest, and a package for each platform, in a folder that an app embeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from edgekd.artifact import indented_json
from edgekd.benchmarking.results import read_result
from edgekd.benchmarking.session_file import DEFAULT, read_session
from edgekd.bundling.contents import Contents, require_new, write_folder
from edgekd.bundling.description import Parts, describe
from edgekd.bundling.golden import answers, golden_inputs, open_places
from edgekd.bundling.manifest import MANIFEST
from edgekd.bundling.ort_format import CONFIG, in_ort_format
from edgekd.bundling.packages import PLATFORMS, package_files, require_platform
from edgekd.bundling.readme import readme
from edgekd.bundling.signature import SIGNATURE, read_private_key
from edgekd.bundling.variants import open_variants
from edgekd.errors import DataError, UsageError
from edgekd.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from edgekd.bundling.manifest import Manifest
    from edgekd.bundling.variants import Variant
    from edgekd.data import Contract
    from edgekd.data.opening import DataLike

RUNS: Final = 4


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
    sign: str | Path | Ed25519PrivateKey | None = None,
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
        sign: An Ed25519 key that signs the manifest, or its file in PEM.
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
    _require_asked(models, platforms)
    require_new(Path(output))
    key = read_private_key(Path(sign)) if isinstance(sign, str | Path) else sign
    places = open_places(devices)
    variants = open_variants([Path(model) for model in models], DEFAULT if session is None else read_session(session))
    known = contract or variants[0].model.contract
    build = None
    if format == "ort":
        variants, build = in_ort_format(variants)
    enclosed = None if benchmark is None else _enclosed(Path(benchmark), variants)
    inputs = golden_inputs(variants[0].model, data, contract=known, labels=labels, count=runs)
    parts = Parts(
        variants=variants,
        contract=known,
        inputs=inputs,
        made_up=data is None,
        answered={variant.path: answers(variant, inputs, places, progress) for variant in variants},
        tokenizer=None if tokenizer is None else Path(tokenizer),
        benchmark=enclosed,
        licences=[Path(licence) for licence in licences],
    )
    contents = Contents()
    manifest = describe(parts, contents)
    write_folder(Path(output), _files(manifest, contents, platforms, build, key))
    return manifest


def _require_asked(models: Sequence[str | Path], platforms: Sequence[str]) -> None:
    if not platforms:
        raise UsageError(f"a bundle needs at least one platform of {', '.join(PLATFORMS)}")
    for platform in platforms:
        require_platform(platform)
    if not models:
        raise UsageError("a bundle needs at least one model")


def _enclosed(path: Path, variants: Sequence[Variant]) -> dict[str, Any]:
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


def _files(
    manifest: Manifest,
    contents: Contents,
    platforms: Sequence[str],
    build: str | None,
    key: Ed25519PrivateKey | None,
) -> dict[str, bytes]:
    """Return all that a bundle's folder holds, by path."""
    listing = indented_json(manifest.to_json())
    files = {MANIFEST: listing, **contents.files}
    if build is not None:
        files[f"build/{CONFIG}"] = build.encode()
    if key is not None:
        files[SIGNATURE] = key.sign(listing)
    for platform in platforms:
        files |= {f"{platform}/{path}": content for path, content in package_files(platform).items()}
    files["README.md"] = readme(manifest, platforms).encode()
    return files
