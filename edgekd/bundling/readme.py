"""The README of a bundle: what is in it, and how each platform starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekd.text import bytes_text, counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgekd.bundling.manifest import Manifest

_PROOFS: Final[Mapping[str, str]] = {
    "python": "pip install numpy onnxruntime && python python/selftest.py",
    "node": "(cd node && npm install --ignore-scripts) && node node/selftest.mjs",
    "web": "(cd web && npm install && npm start), then open /web/index.html?selftest",
    "cpp": "see cpp/README.md; then cpp/build/selftest",
    "android": "see android/README.md",
    "ios": "see ios/README.md",
}


_BUILD: Final = """
The models are in onnxruntime's own format. `build/required_operators_and_types.config` names the kernels that they
need: with `--minimal_build --include_ops_by_config FILE --enable_reduced_operator_type_support`, onnxruntime's
`build.sh` makes a runtime of a few MB with these alone. That pays where the app's size counts and you can build
onnxruntime for each platform and each version yourself; the packages here open the files with the stock runtime, too.
"""


def cpus(manifest: Manifest, path: str) -> list[str]:
    """Return the targets that get a model."""
    return [target for target, choice in manifest.targets.items() if choice.model == path]


def readme(manifest: Manifest, platforms: Sequence[str]) -> str:
    """Return the README of a bundle."""
    sizes = {file.path: file.bytes for file in manifest.files}
    models = [
        f"| `{variant.path}` | {variant.precision} | {bytes_text(sizes[variant.path])} | "
        f"{', '.join(cpus(manifest, variant.path)) or '-'} |"
        for variant in manifest.variants
    ]
    packages = [f"| [{name}]({name}/) | `{_PROOFS[name]}` |" for name in platforms]
    origin = "made up" if manifest.golden.source == "synthetic" else "from data"
    rows, proofs = "\n".join(models), "\n".join(packages)
    runtime = manifest.runtime.onnxruntime
    build = _BUILD if any(variant.format == "ort" for variant in manifest.variants) else ""
    return f"""# {manifest.name}

A bundle by edgekd {manifest.edgekd}: what `edgekd-bundle.json` lists, and a package for each platform that reads
it. The packages are plain sources under Apache-2.0, for your app to change.

| model | weights | size | for CPUs |
|---|---|---|---|
{rows}

| package | prove it |
|---|---|
{proofs}

A self-test checks the sha256 of {counted(len(manifest.files), "file")} and has the model for its CPU answer
{counted(manifest.golden.runs, "golden input")} ({origin}).

onnxruntime {runtime.least} or newer reads the models; {runtime.tested} made the expected answers. Licences are in
`licences/`.
{build}"""
