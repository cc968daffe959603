"""The C++ package of a bundle, built here and for emulated ARM cores."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekd import bundle
from edgekd.bundling.description import image_of
from edgekd.bundling.manifest import MANIFEST
from edgekd.bundling.preparation import prepared
from edgekd.data import Contract
from edgekd.devices import load_profile
from edgekd.drivers import open_driver
from edgekd.drivers.qemu import QemuDriver
from edgekd.drivers.sysroot import SITE, sysroot
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
    rewrite,
)
from tests.bundling.cpp_programs import SOURCES, ask, command, library, library_in, lines, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

pytestmark = pytest.mark.xdist_group("cpp")  # one worker compiles


def self_test(programs: Path, app: Path) -> tuple[int, list[str]]:
    ran = run(programs / "selftest", app, library())
    return ran.returncode, lines(ran)


def test_the_self_test_passes(programs: Path, whole_bundle: Path) -> None:
    status, said = self_test(programs, whole_bundle)
    assert status == 0
    check_passed(said, whole_bundle, detect_host().name, onnxruntime.__version__)


def test_the_bundle_and_the_library_have_defaults(programs: Path, whole_bundle: Path) -> None:
    script = f"cd {whole_bundle} && {programs}/selftest"
    assert lines(run("/bin/sh", "-c", script, EDGEKD_ONNXRUNTIME=str(library())))[-1] == "PASS"
    last = lines(run("/bin/sh", "-c", script, unset=("EDGEKD_ONNXRUNTIME", "LD_LIBRARY_PATH")))[-1]
    assert last.startswith("FAIL: onnxruntime cannot be loaded: libonnxruntime.so: ")


def test_it_makes_no_error_of_memory(probes: Path, whole_bundle: Path) -> None:
    check_passed(
        ask(probes, "selftest", whole_bundle, library()), whole_bundle, detect_host().name, onnxruntime.__version__
    )


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoilt_bundle_is_refused(name: str, programs: Path, app: Path) -> None:
    told = SPOILS[name](app)
    status, said = self_test(programs, app)
    assert status == 1
    assert said[-1].startswith("FAIL: ")
    assert told in said[-1]


@pytest.mark.parametrize("name", SPOILS)
def test_an_app_opens_no_spoilt_model(name: str, probes: Path, app: Path) -> None:
    told = SPOILS[name](app)
    ran = run(probes / "probe", "refuse", app, library())
    assert ran.returncode == 1
    assert told in lines(ran)[0]


def test_a_link_within_the_bundle_is_followed(programs: Path, app: Path) -> None:
    (app / "models").rename(app / "elsewhere")
    (app / "models").symlink_to("elsewhere")
    assert self_test(programs, app)[0] == 0


def test_a_folder_in_a_files_place_is_missing(programs: Path, app: Path) -> None:
    path = app / manifest(app)["files"][0]["path"]
    path.unlink()
    path.mkdir()
    assert self_test(programs, app)[1][-1].endswith(": missing")


def test_other_answers_fail(programs: Path, app: Path) -> None:
    other_answers(app)
    status, said = self_test(programs, app)
    assert status == 1
    assert said[-1].startswith("FAIL: golden: logits differs by 1")


def replace_content(app: Path, path: str, content: bytes) -> None:
    """Change a file of a bundle, and what its manifest says of it."""
    (app / path).write_bytes(content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(app, lambda data: next(file for file in data["files"] if file["path"] == path).update(entry))


def test_nan_fails(programs: Path, app: Path) -> None:
    output = manifest(app)["targets"][detect_host().name]["expected"]["outputs"][0]
    values = np.frombuffer((app / output["path"]).read_bytes(), "<f4").copy()
    values[0] = np.nan
    replace_content(app, output["path"], values.tobytes())
    assert self_test(programs, app)[1][-1].startswith("FAIL: golden: logits differs by inf at most")


def test_answers_of_another_shape_fail(programs: Path, app: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for choice in content["targets"].values():
            choice["expected"]["outputs"][0]["shape"] = [3, 4, 1]

    rewrite(app, change)
    assert self_test(programs, app)[1][-1] == "FAIL: golden: logits has shape [1, 4], expected [4, 1]"


def test_another_preparation_fails(programs: Path, app: Path) -> None:
    rewrite(app, lambda content: content["preparation"]["images"][1].update(sha256="0" * 64))
    assert self_test(programs, app)[1][-1] == "FAIL: preparation: image 1 becomes another input here"


def test_a_damaged_model_with_the_right_hash_is_onnxruntimes_to_refuse(programs: Path, app: Path) -> None:
    path = manifest(app)["targets"][detect_host().name]["model"]
    replace_content(app, path, (app / path).read_bytes()[:1000])
    assert self_test(programs, app)[1][-1].startswith("FAIL: onnxruntime: ")


@pytest.mark.parametrize(("telemetry", "found"), [(None, "1.16.1"), ("0", "1.16.0")])
def test_an_old_onnxruntime_is_refused_and_telemetry_is_off_unless_the_app_says_otherwise(
    telemetry: str | None, found: str, programs: Path, headers: Path, app: Path
) -> None:
    old = app.parent / "libold.so"
    command("g++", "-std=c++17", "-shared", "-fPIC", f"-I{headers}", "-o", old, SOURCES / "old_onnxruntime.cpp")
    rewrite(app, lambda content: content["runtime"]["onnxruntime"].update(least="1.9"))
    variables = {} if telemetry is None else {"ORT_DISABLE_TELEMETRY": telemetry}
    ran = run(programs / "selftest", app, old, unset=("ORT_DISABLE_TELEMETRY",), **variables)
    assert lines(ran) == [f"FAIL: onnxruntime {found} is too old for these models, which need 1.17.0"]


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("name", lambda content: content.update(name=["net"])),
        ("files.0.sha256", lambda content: content["files"][0].update(sha256="A" * 64)),
        ("files.0.bytes", lambda content: content["files"][0].update(bytes=-1)),
        ("files.0.bytes", lambda content: content["files"][0].update(bytes=10**30)),
        ("files.0.bytes", lambda content: content["files"][0].update(bytes=1.5)),
        ("runtime.onnxruntime.least", lambda content: content["runtime"]["onnxruntime"].pop("least")),
        ("image", lambda content: content.pop("image")),
        ("image", lambda content: content.update(image=None)),
        ("image.colour", lambda content: content["image"].update(colour="CMYK")),
        ("image.height", lambda content: content["image"].update(height=2**25)),
        ("image.width", lambda content: content["image"].update(width=0)),
        ("image.mean", lambda content: content["image"].update(mean=[0.5])),
        ("image.mean.2", lambda content: content["image"].update(mean=[0.5, 0, 1e31])),
        ("image.std.1", lambda content: content["image"].update(std=[0.5, 0, 1])),
        ("image.resize", lambda content: content["image"].update(resize="nearest")),
        ("inputs.0.name", lambda content: content["inputs"][0].update(name=None)),
        ("outputs", lambda content: content.update(outputs=[])),
        ("golden.runs", lambda content: content["golden"].update(runs=True)),
        ("golden.inputs", lambda content: content["golden"].update(inputs=[])),
        ("golden.inputs.0.shape", lambda content: content["golden"]["inputs"][0]["shape"].__setitem__(0, 4)),
        ("golden.inputs.0.shape", lambda content: content["golden"]["inputs"][0].update(shape=[3, 2**40, 2**40])),
        ("golden.inputs.0.shape", lambda content: content["golden"]["inputs"][0].update(shape=[])),
        ("golden.inputs.0.dtype", lambda content: content["golden"]["inputs"][0].update(dtype="string")),
        ("labels.1", lambda content: content["labels"].__setitem__(1, 7)),
        ("variants.0.session", lambda content: content["variants"][0].update(session=[])),
        (
            "variants.0.session.intra_op_num_threads",
            lambda content: content["variants"][0]["session"].update(intra_op_num_threads=-1),
        ),
        (
            "variants.0.session.graph_optimization_level",
            lambda content: content["variants"][0]["session"].update(graph_optimization_level="most"),
        ),
        ("targets.wasm.model", lambda content: content["targets"]["wasm"].update(model="golden/input-0.bin")),
        ("targets.wasm.expected.outputs", lambda content: content["targets"]["wasm"]["expected"].update(outputs=[])),
        (
            "targets.wasm.expected.outputs.0.tolerance",
            lambda content: content["targets"]["wasm"]["expected"]["outputs"][0].update(tolerance=-1),
        ),
        (
            "preparation.images.0.pixels",
            lambda content: content["preparation"]["images"][0]["pixels"].update(shape=[3]),
        ),
    ],
)
def test_a_manifest_of_another_form_is_refused(
    where: str, change: Callable[[dict[str, Any]], object], probes: Path, app: Path
) -> None:
    rewrite(app, change)
    assert ask(probes, "manifests", app) == [f"edgekd-bundle.json: {where} is not as edgekd.bundle/1 has it"]


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("golden.inputs.0.shape", lambda content: content["golden"]["inputs"][0]["shape"].append(2)),
        ("files", lambda content: content["golden"]["inputs"][0].update(path="golden/none.bin")),
        ("files", lambda content: content["files"].extend(content["files"])),
    ],
)
def test_a_manifest_that_does_not_fit_its_files_is_refused(
    where: str, change: Callable[[dict[str, Any]], object], programs: Path, app: Path
) -> None:
    rewrite(app, change)
    told = f"FAIL: edgekd-bundle.json: {where} is not as edgekd.bundle/1 has it"
    assert self_test(programs, app)[1][-1] == told


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "expected a value at byte 0"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"schema": "\xff"}', "not UTF-8 at byte 12"),
        (b'{"schema": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"schema": "\\ud800"}', "half of a pair of surrogates"),
        (b'{"a": 1, "b": 2, "a": 3}', "a key stands twice"),
        (b'{"schema": "edgekd.bundle/1"} {}', "something follows the value"),
        (b'{"schema": "edgekd', "a text does not end"),
        (b'{"schema": "a\0b"}', "a control character in a text"),
    ],
)
def test_damaged_json_is_refused(text: bytes, why: str, probes: Path, app: Path) -> None:
    (app / MANIFEST).write_bytes(text)
    (said,) = ask(probes, "manifests", app)
    assert said.startswith("edgekd-bundle.json: cannot be read: ")
    assert why in said


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"schema": null}', '{"schema": 1e999}'])
def test_what_is_no_manifest_at_all(text: str, probes: Path, app: Path) -> None:
    (app / MANIFEST).write_text(text)
    (said,) = ask(probes, "manifests", app)
    assert said.startswith("edgekd-bundle.json: its schema is none; this package reads edgekd.bundle/1")


def test_control_characters_do_not_reach_the_terminal(probes: Path, app: Path) -> None:
    rewrite(app, lambda content: content.update(schema="\x1b[2J\n"))
    (said,) = ask(probes, "manifests", app)
    assert said.startswith("edgekd-bundle.json: its schema is ?[2J?; ")


def test_hostile_manifests_are_refused_without_an_error_of_memory(
    probes: Path, whole_bundle: Path, tmp_path: Path
) -> None:
    random = np.random.default_rng(6)
    whole = (whole_bundle / MANIFEST).read_bytes()
    folders = []
    for number in range(300):
        content = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            at = int(random.integers(len(content)))
            piece = [b"-", b"1e999", b"[" * 70, b"\xff", b"null", b"99999999999999999999", b'"', b"{", b""][
                number % 9
            ]
            content[at : at + int(random.integers(0, 9))] = piece
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        (folders[-1] / MANIFEST).write_bytes(content)
    said = ask(probes, "manifests", *folders)
    assert len(said) == len(folders)
    told = re.compile(r"good|edgekd-bundle.json: .*|.*: a path that leaves the bundle")
    assert [line for line in said if not told.fullmatch(line)] == []
    assert sum(line != "good" for line in said) > 200


JSON = [
    *(
        "0",
        "-0",
        "1.5",
        "-1.25e-3",
        "1E+2",
        "123456789012345678901234567890",
        "1e999",
        "true",
        "[]",
        "{}",
        " [ 1 , 2 ] ",
    ),
    *(
        '"a"',
        '"\\u00e9\\ud83d\\ude00 \\n\\t\\"\\\\\\/\\b\\f\\r"',
        '"Gänse 東 😀"',
        '{"b": [1, {"a": null}], "a": ""}',
    ),
    *(
        "01",
        "+1",
        ".5",
        "1.",
        "1e",
        "-",
        "[1,]",
        "[1 2]",
        '{"a"}',
        '{"a": 1,}',
        "{1: 2}",
        "nul",
        "truE",
        "'a'",
        "NaN",
    ),
    *("Infinity", '"\\x"', '"\\u12g4"', '"\t"', "[", "{", '"', "[1] 2", "\ufeff[]", "//", ""),
]


def test_json_is_what_python_reads(probes: Path, tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(len(JSON))]
    for file, text in zip(files, JSON, strict=True):
        file.write_bytes(text.encode())
    for text, said in zip(JSON, ask(probes, "json", *files), strict=True):
        try:
            expected = json.loads(text, parse_constant=lambda name: int(name))  # no NaN
        except ValueError:
            assert said.startswith("no "), text
        else:
            assert json.loads(said.removeprefix("ok ")) == expected


def test_sha256_is_that_of_hashlib(probes: Path, tmp_path: Path) -> None:
    data = np.random.default_rng(7).bytes(260)
    (tmp_path / "data").write_bytes(data)
    expected = [hashlib.sha256(data[:length]).hexdigest() for length in range(len(data) + 1)]
    assert ask(probes, "sha256", tmp_path / "data") == expected


def test_half_precision_is_that_of_numpy(probes: Path) -> None:
    found = np.array(ask(probes, "halves"), dtype=np.float64)
    np.testing.assert_array_equal(found, np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64))


def sample_pixels(contract: Contract, count: int) -> list[NDArray[np.uint8]]:
    """Return images of many sizes, RGB."""
    random = np.random.default_rng(3)
    sizes = [(1, 1), (1, 300), (700, 2), contract.size, *(tuple(random.integers(1, 200, 2)) for _ in range(count))]
    images = [random.integers(0, 256, (height, width, 3)).astype(np.uint8) for height, width in sizes]
    images[-1][:] = np.where(random.random(images[-1].shape) < 0.5, 0, 255)  # bicubic filters overshoot most
    return images


def check_prepared(start: list[str | Path], contract: Contract, folder: Path, count: int) -> None:
    """Have a program prepare images, and compare with what edgekd makes of them."""
    image = image_of(contract)
    assert image is not None
    (folder / "image.json").write_text(image.model_dump_json())
    images = sample_pixels(contract, count)
    given = []
    for number, pixels in enumerate(images):
        taken = pixels if number % 2 else np.dstack([pixels, pixels[..., :1]])  # transparency is dropped
        given.append(struct.pack("3I", *taken.shape) + taken.tobytes())
    ran = run(*start, folder / "image.json", given=b"".join(given))
    assert (ran.returncode, ran.stderr) == (0, b"")
    found = np.frombuffer(ran.stdout, np.float32).reshape(len(images), *contract.shape)
    for pixels, values in zip(images, found, strict=True):
        np.testing.assert_array_equal(values, prepared(pixels, contract))


@pytest.mark.parametrize("contract", contracts(), ids=lambda contract: f"{contract.colour}-{contract.layout}")
def test_images_become_the_input_to_the_bit(contract: Contract, probes: Path, tmp_path: Path) -> None:
    check_prepared([probes / "prepare_images"], contract, tmp_path, count=60)


def test_a_very_long_image_needs_no_memory_for_what_is_cut_off(probes: Path, tmp_path: Path) -> None:
    image = image_of(IMAGE)
    assert image is not None
    (tmp_path / "image.json").write_text(image.model_dump_json())
    given = struct.pack("3I", 400_000, 1, 3) + bytes(range(240)) * 5_000
    ran = run(probes / "prepare_images", tmp_path / "image.json", given=given, ASAN_OPTIONS="hard_rss_limit_mb=600")
    assert (ran.returncode, len(ran.stdout)) == (0, 4 * 3 * 20 * 24)


@pytest.mark.parametrize("channels", [3, 4])
def test_classes_come_with_their_names(channels: int, probes: Path, whole_bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (33, 47, 4)).astype(np.uint8)
    (tmp_path / "pixels").write_bytes(pixels[..., :channels].tobytes())
    given = (whole_bundle, library(), tmp_path / "pixels", "33", "47", str(channels), "3")
    first, second = map(json.loads, ask(probes, "classify", *given))
    session = onnxruntime.InferenceSession(
        whole_bundle / manifest(whole_bundle)["targets"][detect_host().name]["model"]
    )
    logits = session.run(None, {"input": prepared(pixels[..., :3], IMAGE)[None]})[0][0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    best = np.argsort(-logits)[:3]
    assert [(index, label) for index, _, label in first] == [(n, LABELS[n]) for n in best]
    np.testing.assert_allclose([score for _, score, _ in first], shares[best])
    assert first == second


def test_equal_scores_stand_in_the_order_of_the_classes_and_may_have_no_names(probes: Path, tmp_path: Path) -> None:
    model = image_net()
    for tensor in model.graph.initializer:
        tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(model, tmp_path / "net.onnx")
    bundle([tmp_path / "net.onnx"], tmp_path / "app", platforms=["cpp"])
    rewrite(tmp_path / "app", lambda content: content.update(labels=["only one"]))
    (tmp_path / "pixels").write_bytes(bytes(range(12)))
    given = (tmp_path / "app", library(), tmp_path / "pixels", "2", "2", "3", "9")
    scores = [[0, 0.25, "only one"], [1, 0.25, ""], [2, 0.25, ""], [3, 0.25, ""]]
    assert json.loads(ask(probes, "classify", *given)[0]) == scores


def test_a_model_that_takes_no_image_says_so(probes: Path, tmp_path: Path) -> None:
    model = image_net()
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "net.onnx")
    bundle([tmp_path / "net.onnx"], tmp_path / "app", platforms=["cpp"])
    (tmp_path / "pixels").write_bytes(bytes(12))
    ran = run(probes / "probe", "classify", tmp_path / "app", library(), tmp_path / "pixels", "2", "2", "3", "1")
    assert ran.returncode != 0
    assert "this bundle's model does not take an image; use run()" in ran.stderr.decode() + ran.stdout.decode()
    said = ask(probes, "selftest", tmp_path / "app", library())
    assert [line.partition(":")[0] for line in said] == ["manifest", "files", "target", "golden", "PASS"]


def test_models_in_onnxruntimes_own_format_pass(probes: Path, models: list[Path], tmp_path: Path) -> None:
    bundle(models[-1:], tmp_path / "app", platforms=["cpp"], format="ort", runs=2)
    said = ask(probes, "selftest", tmp_path / "app", library())
    assert said[2] == f"target: {detect_host().name}, model models/net.ort"
    assert said[-1] == "PASS"


def test_inputs_that_do_not_fit_are_refused(probes: Path, whole_bundle: Path) -> None:
    expected = "input input: expected float32 [-1, 3, 20, 24] (-1: any extent), found "
    assert ask(probes, "refuse", whole_bundle, library()) == [
        "taken",
        "input input is missing",
        "more inputs than the model has",
        f"{expected}float32 [1]",
        f"{expected}float64 [2, 3, 20, 24]",
        f"{expected}float32 [2, 3, 20, 23]",
        "3 values for a tensor of the shape [2, 2]",
    ]


def test_the_example_names_what_is_in_an_image(programs: Path, whole_bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (33, 47, 3)).astype(np.uint8)
    (tmp_path / "image.ppm").write_bytes(b"P6 # a comment\n47 33\n255\n" + pixels.tobytes())
    variables = {"EDGEKD_ONNXRUNTIME": str(library())}
    said = lines(run(programs / "example", whole_bundle, tmp_path / "image.ppm", **variables))
    assert sorted(line.partition("  ")[2] for line in said[:4]) == sorted(LABELS)
    assert sum(float(line.partition("  ")[0]) for line in said[:4]) == pytest.approx(1, abs=0.003)
    assert re.fullmatch(rf"models/\S+ on {detect_host().name}: [\d.]+ ms", said[4])
    (tmp_path / "image.ppm").write_bytes(b"P6 47 33 255\n" + pixels.tobytes()[:-1])
    ran = run(programs / "example", whole_bundle, tmp_path / "image.ppm", **variables)
    assert (ran.returncode, ran.stderr.decode().endswith("image.ppm: no PPM image (P6, 8 bits a channel)\n")) == (
        1,
        True,
    )


def test_the_package_can_be_installed_and_found(programs: Path, tmp_path: Path) -> None:
    command("cmake", "--install", programs, "--prefix", tmp_path / "prefix")
    installed = {path.name for path in (tmp_path / "prefix").rglob("*") if path.is_file()}
    assert {"edgekd_bundle.hpp", "json.hpp", "edgekd_bundle-config.cmake", "selftest", "example"} <= installed
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(app CXX)\nfind_package(edgekd_bundle REQUIRED)\n"
        "get_target_property(options edgekd::bundle INTERFACE_COMPILE_OPTIONS)\n"
        'if(NOT options STREQUAL "-ffp-contract=off")\n  message(FATAL_ERROR "${options}")\nendif()\n'
    )
    command("cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")


@contextmanager
def emulated(device: str) -> Iterator[list[str]]:
    """Give the beginning of a command that runs a program on an emulated core."""
    driver = open_driver(load_profile(device))
    assert isinstance(driver, QemuDriver)
    with driver:
        yield driver.interpreter()[:-2]  # without Python and its option


@pytest.mark.parametrize(
    ("device", "target"),
    [("qemu-cortex-a76", "arm64-dotprod"), ("qemu-cortex-a53", "arm64"), ("qemu-max-i8mm", "arm64-i8mm")],
)
def test_it_passes_on_emulated_arm_cores(
    device: str, target: str, arm_programs: Path, whole_bundle: Path, tmp_path: Path
) -> None:
    with emulated(device) as emulator:
        wheel = library_in(sysroot() / SITE / "onnxruntime")
        ran = run(*emulator, arm_programs / "package" / "selftest", whole_bundle, wheel)
        assert ran.returncode == 0, ran.stdout
        check_passed(ran.stdout.decode().splitlines(), whole_bundle, target, onnxruntime.__version__)
        check_prepared([*emulator, arm_programs / "tests" / "prepare_images"], IMAGE, tmp_path, count=20)


def test_it_finds_out_that_an_emulated_x86_core_is_older(
    programs: Path, whole_bundle: Path, needed: Callable[[str, Path], Path]
) -> None:
    needed("qemu", Path("/usr/bin/qemu-x86_64-static"))
    with emulated("qemu-haswell") as emulator:
        ran = run(*emulator, programs / "selftest", whole_bundle, library())
        assert ran.returncode == 0, ran.stdout
        check_passed(ran.stdout.decode().splitlines(), whole_bundle, "x86-avx2", onnxruntime.__version__)
