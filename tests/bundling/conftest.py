"""A bundle for every platform, and ways to spoil it with what each package has to say then."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import bundle, quantize
from edgekd.bundling.manifest import MANIFEST
from edgekd.bundling.packages import PLATFORMS, package_files
from edgekd.data import Contract
from edgekd.graph.metadata import write_metadata
from edgekd.targets import detect_host
from tests.bundling.cpp_programs import SOURCES, build, onnxruntime_headers
from tests.conftest import conv_net

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKED = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"

# The file for ARM saturates on AVX2 without VNNI: there an emulated core has to answer for it.
ASKED = ["qemu-cortex-a76"] if detect_host().name == "x86-avx2" else []
LABELS = ("<b>cat</b>", 'dog & "cow"', "Gänse", "$(eel)")
IMAGE = Contract(
    layout="NCHW",
    shape=(3, 20, 24),
    colour="RGB",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    labels=LABELS,
)


def image_net(contract: Contract = IMAGE) -> onnx.ModelProto:
    """Return a small network that takes images as the contract says."""
    model = conv_net(size=20)
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    sizes[2].dim_value, sizes[3].dim_value = contract.size
    write_metadata(model, {"edgekd.contract": json.dumps(contract.to_json())})
    return model


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return int8 files for two targets, and the fp32 file."""
    folder = tmp_path_factory.mktemp("models")
    fp32 = folder / "net.onnx"
    onnx.save(image_net(), fp32)
    values = np.random.default_rng(1).normal(0, 1.5, (32, 3, 20, 24)).astype(np.float32)
    targets = ("x86-avx2", "arm64-dotprod")
    for target in targets:
        quantize(fp32, {"input": values}, target=target, output=folder / f"net.{target}.onnx")
    return [*(folder / f"net.{target}.onnx" for target in targets), fp32]


@pytest.fixture(scope="session")
def whole_bundle(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle for every platform; not to be changed."""
    folder = tmp_path_factory.mktemp("bundle") / "app"
    values = np.random.default_rng(2).normal(0, 1.5, (9, 3, 20, 24)).astype(np.float32)
    bundle(models, folder, platforms=list(PLATFORMS), data={"input": values}, runs=3, devices=ASKED)
    return folder


TEXT_WORDS = (
    *(
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "The",
        "dog",
        "run",
        "##ning",
        "##s",
        "e",
        "ete",
        "[",
        "]",
    ),
    *("sep", "zurich", "東", "##d", "##o", "##g", ",", ".", "-", "a", "##a", "i", "ss", "ß", "$", "5", "##0"),
)


def word_piece(*, lowercase: bool = True) -> Any:
    """Return a small tokenizer of BERT's kind."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    numbers = {word: number for number, word in enumerate(TEXT_WORDS)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", numbers["[SEP]"]), ("[CLS]", numbers["[CLS]"]))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.enable_truncation(16)
    return tokenizer


def text_net() -> onnx.ModelProto:
    """Return a network that adds up the numbers of the tokens that its mask leaves."""
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["left"]),
        helper.make_node("Cast", ["left"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["values", "axis"], ["total"], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.asarray([1], dtype=np.int64), "axis")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="session")
def text_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of a model that takes texts, for every platform; not to be changed."""
    folder = tmp_path_factory.mktemp("text")
    word_piece().save(str(folder / "tokenizer.json"))
    onnx.save(text_net(), folder / "net.onnx")
    platforms = list(PLATFORMS)
    bundle([folder / "net.onnx"], folder / "app", platforms=platforms, tokenizer=folder / "tokenizer.json", runs=2)
    return folder / "app"


@pytest.fixture(scope="session")
def headers(needed: Callable[[str, Path], Path]) -> Path:
    for program in ("cmake", "g++"):
        needed("cpp", Path(shutil.which(program) or f"/usr/bin/{program}"))
    return onnxruntime_headers(needed)


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the package's sources, as a bundle has them."""
    return write_package("cpp", tmp_path_factory.mktemp("cpp") / "cpp")


@pytest.fixture(scope="session")
def programs(package: Path, headers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the package's own programs."""
    return build(package, tmp_path_factory.mktemp("programs"), headers)


@pytest.fixture(scope="session")
def probes(package: Path, headers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tests' programs, which end at the first error of memory or undefined behaviour."""
    return build(SOURCES, tmp_path_factory.mktemp("probes"), headers, flags=CHECKED, PACKAGE=package)


@pytest.fixture(scope="session")
def arm_programs(
    package: Path, headers: Path, needed: Callable[[str, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the folder of the self-test and of `prepare_images`, for 64-bit ARM."""
    compiler = needed("cpp", Path("/usr/bin/aarch64-linux-gnu-g++"))
    needed("qemu", Path("/usr/bin/qemu-aarch64-static"))
    folder = tmp_path_factory.mktemp("arm")
    cross = {"CMAKE_SYSTEM_NAME": "Linux", "CMAKE_SYSTEM_PROCESSOR": "aarch64", "CMAKE_CXX_COMPILER": compiler}
    build(package, folder / "package", headers, "selftest", **cross)
    build(SOURCES, folder / "tests", headers, "prepare_images", PACKAGE=package, CMAKE_BUILD_TYPE="Release", **cross)
    return folder


@pytest.fixture
def app(whole_bundle: Path, tmp_path: Path) -> Path:
    """Return a copy of the bundle, to be changed."""
    return Path(shutil.copytree(whole_bundle, tmp_path / "app"))


def manifest(app: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((app / MANIFEST).read_bytes())
    return content


def check_passed(said: list[str], app: Path, target: str, runtime: str) -> None:
    """Hold that a self-test has said all that it says of `whole_bundle` when it passes.

    Args:
        said: Its lines.
        app: The bundle.
        target: Where it ran.
        runtime: The version of onnxruntime that it ran with.
    """
    content = manifest(app)
    count, least = len(content["files"]), content["runtime"]["onnxruntime"]["least"]
    assert said[:4] == [
        f"manifest: net, edgekd.bundle/1, onnxruntime {runtime} (least {least})",
        f"files: {count} of {count} are whole",
        f"target: {target}, model {content['targets'][target]['model']}",
        "preparation: 3 of 3 vectors are exact",
    ]
    number = r"\d+(\.\d+)?(e[-+]?\d+)?"
    assert re.fullmatch(f"golden: 3 runs, logits differs by {number} at most, {number} is allowed", said[4])
    assert said[5:] == ["PASS"]


def write_package(platform: str, folder: Path) -> Path:
    """Write a platform's package into a folder, as a bundle has it, and return the folder."""
    for path, content in package_files(platform).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def rewrite(app: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of a bundle."""
    content = manifest(app)
    change(content)
    (app / MANIFEST).write_text(json.dumps(content))


def _change_a_byte(app: Path) -> str:
    for entry in manifest(app)["variants"]:  # whichever this CPU takes
        path = app / entry["path"]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    return "its sha256 is not that of the manifest: damaged or changed"


def _truncate(app: Path) -> str:
    for entry in manifest(app)["variants"]:
        path = app / entry["path"]
        path.write_bytes(path.read_bytes()[:-7])
    return ": truncated or changed"


def _remove(app: Path) -> str:
    shutil.rmtree(app / "models")
    return ": missing"


def _future(app: Path) -> str:
    rewrite(app, lambda content: content.update(schema="edgekd.bundle/2"))
    return "edgekd-bundle.json: its schema is edgekd.bundle/2; this package reads edgekd.bundle/1: update the package"


def _path_out(path: str) -> Callable[[Path], str]:
    def spoil(app: Path) -> str:
        (app.parent / "secret").write_bytes(b"secret")

        def change(content: dict[str, Any]) -> None:
            for entry in [*content["files"], *content["variants"]]:
                if entry["path"].startswith("models/"):
                    entry["path"] = path
            for choice in content["targets"].values():
                choice["model"] = path

        rewrite(app, change)
        return f"{path}: a path that leaves the bundle"

    return spoil


def _link_out(app: Path) -> str:
    (app / "models").rename(app.parent / "models")
    (app / "models").symlink_to(app.parent / "models", target_is_directory=True)
    return ": a path that leaves the bundle"


def _no_manifest(app: Path) -> str:
    (app / MANIFEST).unlink()
    return "edgekd-bundle.json: cannot be read: "


def _no_json(app: Path) -> str:
    (app / MANIFEST).write_text('{"schema": "edgekd.bundle/1",')
    return "edgekd-bundle.json: cannot be read: "


def _no_files(app: Path) -> str:
    rewrite(app, lambda content: content.pop("files"))
    return "edgekd-bundle.json: files is not as edgekd.bundle/1 has it"


def _other_kind(app: Path) -> str:
    rewrite(app, lambda content: content.update(files="all"))
    return "edgekd-bundle.json: files is not as edgekd.bundle/1 has it"


def _no_target(app: Path) -> str:
    rewrite(app, lambda content: content.update(targets={}))
    return "no model in this bundle is right on "


def _new_runtime(app: Path) -> str:
    rewrite(app, lambda content: content["runtime"]["onnxruntime"].update(least="99.1.0"))
    return " is too old for these models, which need 99.1.0"


SPOILS: dict[str, Callable[[Path], str]] = {
    "a byte of the models changed": _change_a_byte,
    "models truncated": _truncate,
    "models missing": _remove,
    "manifest from the future": _future,
    "path above": _path_out("../secret"),
    "path within and above": _path_out("models/../../secret"),
    "absolute path": _path_out("/etc/hostname"),
    "path with a drive": _path_out("C:secret"),
    "path with backslashes": _path_out("..\\secret"),
    "hidden name": _path_out("models/.secret"),
    "empty path": _path_out(""),
    "link that leads out": _link_out,
    "no manifest": _no_manifest,
    "no JSON": _no_json,
    "a key is missing": _no_files,
    "a key of another kind": _other_kind,
    "no model for this CPU": _no_target,
    "runtime too old": _new_runtime,
}
"""What is done to a bundle's folder, and what a package's message has to hold, by name."""


def other_answers(app: Path) -> None:
    """Have a bundle expect other answers than its models give, without spoiling a file."""
    import hashlib

    content = manifest(app)
    changed = {output["path"] for choice in content["targets"].values() for output in choice["expected"]["outputs"]}
    for path in changed:
        values = np.frombuffer((app / path).read_bytes(), "<f4").copy()
        values[-1] += 1
        (app / path).write_bytes(values.tobytes())
    for entry in content["files"]:
        if entry["path"] in changed:
            entry["sha256"] = hashlib.sha256((app / entry["path"]).read_bytes()).hexdigest()
    (app / MANIFEST).write_text(json.dumps(content))


def contracts() -> list[Contract]:
    """Return contracts of images that differ in all that preparation depends on."""
    gray = replace(IMAGE, shape=(1, 20, 24), colour="gray", mean=(0.3,), std=(0.2,))
    return [
        IMAGE,
        gray,
        replace(IMAGE, colour="BGR"),
        replace(IMAGE, layout="NHWC", shape=(31, 17, 3)),
        replace(IMAGE, shape=(3, 64, 64)),
    ]
