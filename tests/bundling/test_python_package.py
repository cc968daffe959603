"""The Python package of a bundle, in a process that knows nothing of edgekd."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from edgekd import bundle
from edgekd.bundling.description import image_of
from edgekd.bundling.preparation import prepared
from edgekd.data import Contract
from edgekd.targets import detect_host
from tests.bundling.conftest import (
    IMAGE,
    LABELS,
    SPOILS,
    check_passed,
    contracts,
    image_net,
    manifest,
    other_answers,
    write_package,
)


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )


def use(app: Path, code: str) -> Any:
    """Run code that has opened the bundle as `model`, and return the JSON that it prints."""
    program = f"import json\nfrom edgekd_bundle import *\nmodel = open_bundle({str(app)!r})\n{code}"
    ran = run(["-c", program], app / "python")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_the_self_test_passes(whole_bundle: Path, tmp_path: Path) -> None:
    ran = run([str(whole_bundle / "python" / "selftest.py")], tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    check_passed(ran.stdout.splitlines(), whole_bundle, detect_host().name, onnxruntime.__version__)


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoilt_bundle_is_refused(name: str, app: Path) -> None:
    told = SPOILS[name](app)
    ran = run([str(app / "python" / "selftest.py")], app)
    assert (ran.returncode, ran.stderr) == (1, "")
    last = ran.stdout.splitlines()[-1]
    assert last.startswith("FAIL: ")
    assert told in last
    opened = run(["-c", f"import edgekd_bundle; edgekd_bundle.open_bundle({str(app)!r})"], app / "python")
    assert opened.returncode == 1
    assert told in opened.stderr.splitlines()[-1]


def test_other_answers_fail(app: Path) -> None:
    other_answers(app)
    ran = run([str(app / "python" / "selftest.py")], app)
    assert ran.returncode == 1
    assert ran.stdout.splitlines()[-1].startswith("FAIL: golden: logits differs by 1")


def test_nan_fails(app: Path) -> None:
    content = manifest(app)
    code = "import numpy as np\nimport selftest\nfrom edgekd_bundle import model\n"
    code += "old = model.Model.run\n"
    code += "model.Model.run = lambda *a: {k: v * np.nan for k, v in old(*a).items()}\n"
    code += f"import sys; sys.argv[1:] = [{str(app)!r}]; sys.exit(selftest.main())"
    ran = run(["-c", code], app / "python")
    assert content["golden"]["runs"] == 3
    assert (ran.returncode, "differs by nan at most" in ran.stdout.splitlines()[-1]) == (1, True)


def test_another_preparation_fails(app: Path) -> None:
    images = app / "python" / "edgekd_bundle" / "images.py"
    text = images.read_text()
    assert text.count("(_A + 2)") == 1
    images.write_text(text.replace("(_A + 2)", "(_A + 2.01)"))
    ran = run([str(app / "python" / "selftest.py")], app)
    assert ran.returncode == 1
    assert ran.stdout.splitlines()[-1] == "FAIL: preparation: image 0 becomes another input here"


@pytest.fixture(scope="session")
def prepare_image(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_package("python", tmp_path_factory.mktemp("package"))
    spec = importlib.util.spec_from_file_location("bundle_images", folder / "edgekd_bundle" / "images.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.prepare_image


@pytest.mark.parametrize("contract", contracts(), ids=lambda contract: f"{contract.colour}-{contract.layout}")
def test_images_become_the_input_to_the_bit(contract: Contract, prepare_image: Any) -> None:
    random = np.random.default_rng(3)
    described = image_of(contract)
    assert described is not None
    sizes = [(1, 1), (1, 300), contract.size, *(tuple(random.integers(1, 200, 2)) for _ in range(40))]
    for height, width in sizes:
        pixels = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
        found = prepare_image(pixels, described.model_dump())
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found[0], prepared(pixels, contract), strict=True)


def test_what_is_no_image_is_refused(prepare_image: Any) -> None:
    described = image_of(IMAGE)
    assert described is not None
    for pixels in (np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 3)), np.zeros((0, 2, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8 pixels"):
            prepare_image(pixels, described.model_dump())


def test_classes_come_with_their_names(whole_bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (33, 47, 3)).astype(np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    code = f"from PIL import Image\nimport numpy as np\npixels = np.asarray(Image.open({str(path)!r}))\n"
    scores = use(whole_bundle, code + "print(json.dumps(model.classify(pixels, 3)))")
    model = manifest(whole_bundle)["targets"][detect_host().name]["model"]
    session = onnxruntime.InferenceSession(whole_bundle / model)
    logits = session.run(None, {"input": prepared(pixels, IMAGE)[None]})[0][0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    best = np.argsort(-logits)[:3]
    assert [score[0] for score in scores] == [LABELS[n] for n in best]
    np.testing.assert_allclose([score[1] for score in scores], shares[best])


def test_a_model_that_takes_no_image_says_so(tmp_path: Path) -> None:
    model = image_net()
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "net.onnx")
    bundle([tmp_path / "net.onnx"], tmp_path / "app", platforms=["python"])
    ran = run(["-c", "import edgekd_bundle as e; e.open_bundle('..').classify(None)"], tmp_path / "app" / "python")
    assert "this bundle's model does not take an image; use run()" in ran.stderr.splitlines()[-1]
    assert run([str(tmp_path / "app" / "python" / "selftest.py")], tmp_path).returncode == 0


def test_telemetry_is_off_unless_the_app_says_otherwise(whole_bundle: Path) -> None:
    told = use(whole_bundle, "import os; print(json.dumps(os.environ['ORT_DISABLE_TELEMETRY']))")
    assert told == "1"
