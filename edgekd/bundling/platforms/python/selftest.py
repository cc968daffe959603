# SPDX-License-Identifier: Apache-2.0
"""Prove that this bundle is whole, and that its model answers here as it did where it was made.

    python selftest.py [--key PUBLIC_KEY] [FOLDER]

FOLDER is the bundle, by default the one that this file lies in; with a key it has to be signed. Exits with 0 and
PASS, or 1 and FAIL.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from edgekd_bundle import Bundle, BundleError, host_target, read_bundle
from edgekd_bundle.images import prepare_image
from edgekd_bundle.model import chosen_model, onnxruntime, open_model, require_runtime
from edgekd_bundle.texts import Tokenizer


def main() -> int:
    """Test, and say what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--key", help="64 hexadecimal digits")
    given = parser.parse_args()
    try:
        test(given.folder, given.key)
    except BundleError as error:
        print(f"FAIL: {error}")
        return 1
    print("PASS")
    return 0


def test(folder: Path, public_key: str | None) -> None:
    """Print a line for each check; raises BundleError at the first that fails."""
    bundle = read_bundle(folder, public_key)
    least = bundle.get("runtime", "onnxruntime", "least", kind=str)
    print(
        f"manifest: {bundle.get('name', kind=str)}, {bundle.manifest['schema']}, "
        f"onnxruntime {onnxruntime.__version__} (least {least})"
    )
    require_runtime(bundle)
    files = bundle.get("files", kind=list)
    for number in range(len(files)):
        bundle.whole_file(bundle.get("files", number, "path", kind=str))
    print(f"files: {len(files)} of {len(files)} are whole")
    target = host_target()
    path = chosen_model(bundle, target)
    print(f"target: {target}, model {path}")
    check_preparation(bundle)
    check_answers(bundle, target, path)


def check_preparation(bundle: Bundle) -> None:
    """Prepare the test images and texts, and compare."""
    vectors = bundle.get("preparation", "images", kind=list)
    for number, vector in enumerate(vectors):
        pixels = tensor(bundle, bundle.get("preparation", "images", number, "pixels"))
        prepared = prepare_image(pixels, bundle.get("image")).astype("<f4").tobytes()
        if hashlib.sha256(prepared).hexdigest() != vector["sha256"]:
            raise BundleError(f"preparation: image {number} becomes another input here")
    texts = bundle.get("preparation", "texts", kind=list)
    tokenizer = Tokenizer(bundle) if texts else None
    for number, vector in enumerate(texts):
        if tokenizer is None or tokenizer.ids(vector["text"]) != vector["ids"]:
            raise BundleError(f"preparation: text {number} becomes another input here")
    count = len(vectors) + len(texts)
    if count:
        print(f"preparation: {count} of {count} vectors are exact")


def check_answers(bundle: Bundle, target: str, path: str) -> None:
    """Run the golden inputs, and compare."""
    model = open_model(bundle, target, path)
    runs = bundle.get("golden", "runs", kind=int)
    inputs = {entry["name"]: tensor(bundle, entry) for entry in bundle.get("golden", "inputs", kind=list)}
    answers = [model.run({name: values[run] for name, values in inputs.items()}) for run in range(runs)]
    for output in bundle.get("targets", target, "expected", "outputs", kind=list):
        expected = tensor(bundle, output).astype(np.float64)
        found = np.stack([answer[output["name"]] for answer in answers]).astype(np.float64)
        if found.shape != expected.shape:
            raise BundleError(f"golden: {output['name']} has shape {found.shape}, expected {expected.shape}")
        apart = float(np.abs(found - expected).max(initial=0))
        said = f"{output['name']} differs by {apart:.3g} at most, {output['tolerance']:.3g} is allowed"
        if not apart <= output["tolerance"]:  # NaN, too
            raise BundleError(f"golden: {said}")
        print(f"golden: {runs} runs, {said}")


def tensor(bundle: Bundle, entry: dict[str, Any]) -> Any:
    """Read a tensor of the bundle."""
    values = np.frombuffer(bundle.read(entry["path"]), np.dtype(entry["dtype"]).newbyteorder("<"))
    return values.astype(entry["dtype"]).reshape(entry["shape"])


if __name__ == "__main__":
    sys.exit(main())
