"""The Kotlin package of a bundle, compiled and run on this machine's JVM over Android's onnxruntime."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from edgekd.bundling.manifest import MANIFEST
from edgekd.bundling.preparation import prepared
from edgekd.bundling.signature import SIGNATURE, public_hex
from edgekd.targets import classify, detect_host, parse_cpuinfo
from tests.bundling.conftest import (
    IMAGE,
    LABELS,
    SPOILS,
    TEXT_WORDS,
    check_passed,
    contracts,
    manifest,
    other_answers,
    rewrite,
    word_piece,
    write_package,
)
from tests.bundling.cpp_programs import onnxruntime_archive
from tests.bundling.kotlin_programs import ONNXRUNTIME, Desktop, compile_kotlin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgekd.data import Contract

pytestmark = pytest.mark.xdist_group("kotlin")  # one worker compiles
SDK = "edgekd/bundle/android"  # what imports Android's classes


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the package's sources, as a bundle has them."""
    return write_package("android", tmp_path_factory.mktemp("android") / "android")


@pytest.fixture(scope="session")
def desktop(
    package: Path, needed: Callable[[str, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Desktop]:
    folder = tmp_path_factory.mktemp("kotlin")
    program = Desktop(compile_kotlin(needed, package, folder), folder / "native")
    yield program
    assert program.end() == 0


def test_the_self_test_passes(desktop: Desktop, whole_bundle: Path, tmp_path: Path) -> None:
    check_passed(desktop.ask("selftest", whole_bundle, tmp_path), whole_bundle, detect_host().name, ONNXRUNTIME)


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoilt_bundle_is_refused(name: str, desktop: Desktop, app: Path, tmp_path: Path) -> None:
    told = SPOILS[name](app)
    last = desktop.ask("selftest", app, tmp_path / "store")[-1]
    assert last.startswith("FAIL: ")
    assert told in last
    (refusal,) = desktop.ask("open", app, tmp_path / "store")
    assert refusal.startswith("refused: ")
    assert told in refusal


def test_other_answers_fail(desktop: Desktop, app: Path, tmp_path: Path) -> None:
    other_answers(app)
    said = desktop.ask("selftest", app, tmp_path / "store")[-1]
    assert re.fullmatch(r"FAIL: golden: logits differs by (1|0\.99\d*|1\.0\d*) at most, [\d.]+ is allowed", said)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("nan", r"logits differs by NaN at most, [\d.]+ is allowed"),
        ("shape", r"logits has shape \[1, 3\], expected \[1, 4\]"),
        ("none", r"logits has shape none, expected \[1, 4\]"),
    ],
)
def test_what_is_no_answer_fails(kind: str, told: str, desktop: Desktop, whole_bundle: Path, tmp_path: Path) -> None:
    assert re.fullmatch(f"FAIL: golden: {told}", desktop.ask("broken", whole_bundle, tmp_path, kind)[-1])


def test_an_image_that_is_prepared_otherwise_fails(desktop: Desktop, app: Path, tmp_path: Path) -> None:
    rewrite(app, lambda content: content["image"].update(mean=[0.4, 0.4, 0.4]))
    said = desktop.ask("selftest", app, tmp_path / "store")[-1]
    assert said == "FAIL: preparation: image 0 becomes another input here"


def test_a_bundle_of_texts_proves_its_model(desktop: Desktop, text_bundle: Path, tmp_path: Path) -> None:
    said = desktop.ask("selftest", text_bundle, tmp_path)
    assert "preparation: 9 of 9 vectors are exact" in said
    assert said[-1] == "PASS"


def units(text: str) -> str:
    """Return a text's UTF-16 code units, as the tests' program takes them."""
    return " ".join(f"{unit:x}" for (unit,) in struct.iter_unpack("<H", text.encode("utf-16-le", "surrogatepass")))


def test_texts_become_the_tokenizers_own_numbers(desktop: Desktop, text_bundle: Path, tmp_path: Path) -> None:
    chance = random.Random(5)
    texts = ["", "Running dogs", "[SEP] é 東京 $5.00", "dog" * 40, "a " * 100, "\U0001f600 dog\u200bs"]
    for _ in range(60):
        letters = [chr(chance.choice([chance.randrange(32, 592), chance.randrange(32, 0xD800)])) for _ in range(12)]
        texts.append(
            "".join(letters) + " ".join(chance.choices(TEXT_WORDS, k=5)) + chr(chance.randrange(0xE000, 0x110000))
        )
    tokenizer = word_piece()
    tokenizer.encode_special_tokens = True
    for text in texts:
        ids = tokenizer.encode(text).ids
        assert desktop.ask("text", text_bundle, tmp_path, units(text)) == [
            f"input_ids [1, {len(ids)}] {ids}",
            f"attention_mask [1, {len(ids)}] {[1] * len(ids)}",
        ]


def test_lone_surrogates_become_replacement_characters(desktop: Desktop, text_bundle: Path, tmp_path: Path) -> None:
    wanted = desktop.ask("text", text_bundle, tmp_path, units("dog\ufffds run\ufffd"))
    assert desktop.ask("text", text_bundle, tmp_path, units("dog\ud800s run\udc00")) == wanted
    assert wanted[0].startswith("input_ids [1, ")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("54-54 = 74", "54-54 = 73"), "preparation: text 0 becomes another input here"),
        (("54-54 = 74", "54-54 = 74 z"), "tokenizer/characters.txt is not as edgekd.bundle/1 has it"),
        (("54-54 = 74", "54-54 = FFFFFF"), "tokenizer/characters.txt is not as edgekd.bundle/1 has it"),
        (("54-54 = 74", "54-66 = 74"), "tokenizer/characters.txt is not as edgekd.bundle/1 has it"),
    ],
)
def test_a_changed_table_fails(
    change: tuple[str, str], told: str, desktop: Desktop, text_bundle: Path, tmp_path: Path
) -> None:
    app = Path(shutil.copytree(text_bundle, tmp_path / "app"))
    path = app / manifest(app)["text"]["characters"]
    changed = path.read_text().replace(*change).encode()
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    entry = {"path": "tokenizer/characters.txt", "bytes": len(changed), "sha256": hashlib.sha256(changed).hexdigest()}

    def list_it(content: dict) -> None:
        content["files"] = [entry if one["path"] == entry["path"] else one for one in content["files"]]

    rewrite(app, list_it)
    assert desktop.ask("selftest", app, tmp_path / "store")[-1] == f"FAIL: {told}"


def test_a_bundle_without_a_tokenizer_takes_no_text(desktop: Desktop, whole_bundle: Path, tmp_path: Path) -> None:
    (refusal,) = desktop.ask("text", whole_bundle, tmp_path, units("a"))
    assert refusal == "refused: this bundle's model does not take a text; use run()"


def test_a_bundle_of_texts_takes_no_image(desktop: Desktop, text_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "pixels").write_bytes(bytes(3))
    (refusal,) = desktop.ask("classify", text_bundle, tmp_path / "store", 1, 1, tmp_path / "pixels")
    assert refusal == "refused: this bundle's model does not take an image; use run()"


def test_a_signed_bundle_is_opened_with_its_key_alone(desktop: Desktop, app: Path, tmp_path: Path) -> None:
    key, other = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))
    refusal = f"{MANIFEST}: its signature is not of the given key"
    store = tmp_path / "store"
    assert desktop.ask("selftest", app, store, public_hex(key)) == [f"FAIL: {refusal}"]
    (app / SIGNATURE).write_bytes(key.sign((app / MANIFEST).read_bytes()))
    assert desktop.ask("selftest", app, store, public_hex(key))[-1] == "PASS"
    assert desktop.ask("open", app, store, public_hex(key))[0].startswith("opened ")
    for wrong in (public_hex(other), "00" * 32, "", "no key", public_hex(key)[:-2]):
        assert desktop.ask("selftest", app, store, wrong) == [f"FAIL: {refusal}"]
        assert desktop.ask("open", app, store, wrong) == [f"refused: {refusal}"]
    (app / SIGNATURE).write_bytes(b"short")
    assert desktop.ask("selftest", app, store, public_hex(key)) == [f"FAIL: {refusal}"]
    (app / SIGNATURE).write_bytes(key.sign((app / MANIFEST).read_bytes()))
    (app / MANIFEST).write_bytes((app / MANIFEST).read_bytes() + b"\n")
    assert desktop.ask("selftest", app, store, public_hex(key)) == [f"FAIL: {refusal}"]
    assert desktop.ask("selftest", app, store)[-1] == "PASS"


def test_where_java_has_no_ed25519_nothing_is_opened(desktop: Desktop, app: Path, tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    (app / SIGNATURE).write_bytes(key.sign((app / MANIFEST).read_bytes()))
    assert desktop.ask("unsignable", app, tmp_path, public_hex(key)) == [
        "FAIL: a signature cannot be checked here: it needs Android 13 (API level 33) or Java 15"
    ]


HOSTILE: dict[str, Callable[[dict], object]] = {
    "files.0.bytes": lambda content: content["files"][0].update(bytes=-1),
    "files.0.sha256": lambda content: content["files"][0].update(sha256="00"),
    "inputs.0.dtype": lambda content: content["inputs"][0].update(dtype="complex64"),
    "image": lambda content: content["image"].update(height=2**30, width=2**30),
    "image.std": lambda content: content["image"].update(std=[1, 0, 1]),
    "image.mean": lambda content: content["image"].update(mean=[1]),
    "image.height": lambda content: content["image"].update(height=2**40),
    "image.colour": lambda content: content["image"].update(colour="CMYK"),
    "golden.runs": lambda content: content["golden"].update(runs=0),
    "golden.inputs.0.shape": lambda content: content["golden"]["inputs"][0].update(shape=[2**62, 2**62]),
    "golden.inputs.0.path": lambda content: content["golden"]["inputs"][0].update(path="golden/other.bin"),
    "variants.0.session.intra_op_num_threads": lambda content: content["variants"][0]["session"].update(
        intra_op_num_threads=1.5
    ),
    "variants.0.session.intra_op_spinning": lambda content: content["variants"][0]["session"].update(
        intra_op_spinning=1
    ),
    "labels.1": lambda content: content.update(labels=["a", None]),
    "preparation.images.0.pixels": lambda content: content["preparation"]["images"][0]["pixels"].update(
        shape=[content["preparation"]["images"][0]["pixels"]["shape"][0], 3, 0]
    ),
    "outputs": lambda content: content.pop("outputs"),
    "targets": lambda content: content.update(targets=[]),
}


@pytest.mark.parametrize("where", HOSTILE)
def test_a_hostile_manifest_is_refused(where: str, desktop: Desktop, app: Path, tmp_path: Path) -> None:
    rewrite(app, HOSTILE[where])
    (refusal,) = desktop.ask("open", app, tmp_path / "store")
    assert re.fullmatch(
        rf"refused: {MANIFEST}: {re.escape(where)}(\.shape)? is not as edgekd.bundle/1 has it", refusal
    )


VALUES = {
    "text": '"\\u00e9\\ud83d\\ude00 \\"\\\\\\/\\b\\f\\n\\r\\tü"',
    "numbers": "[0, -1, 12345678901234567, 1.5, -2.5e-3, 1E2]",
    "all kinds": ' { "a" : [ true , false , null ] , "b" : { } , "c" : [ ] } ',
}


@pytest.mark.parametrize("name", VALUES)
def test_json_is_read(name: str, desktop: Desktop, tmp_path: Path) -> None:
    def shown(value: object) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f"{shown(key)}:{shown(member)}" for key, member in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(shown, value)) + "]"
        if isinstance(value, str):
            return f"'{units(value)}'"
        return {True: "true", False: "false", None: "null"}[value] if value in (True, False, None) else repr(value)

    (tmp_path / "text").write_text(VALUES[name])
    (found,) = desktop.ask("json", tmp_path / "text")
    if name == "numbers":
        assert found == "[0,-1,12345678901234567,1.5,-0.0025,100.0]"
    else:
        assert found == shown(json.loads(VALUES[name]))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1,]", '{"a":1,}', "[1 2]", "01", "1.", "+1", ".5", "NaN", "Infinity", "'a'", '"\\x"', '"\\u12"'),
        *('"a', '"\n"', "tru", "nul", "[1] 2", "{1:2}", '{"a"}', "[" * 100_000, '{"a":' * 100_000),
    ],
)
def test_what_is_no_json_is_refused(text: str, desktop: Desktop, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(text)
    (refusal,) = desktop.ask("open", tmp_path, tmp_path / "store")
    assert refusal.startswith(f"refused: {MANIFEST}: cannot be read: no JSON: expected ")


def test_a_manifest_of_broken_utf_8_is_refused(desktop: Desktop, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(b'{"schema": "\xff"}')
    (refusal,) = desktop.ask("open", tmp_path, tmp_path / "store")
    assert refusal.startswith(f"refused: {MANIFEST}: cannot be read: ")


@pytest.mark.parametrize("contract", contracts(), ids=lambda contract: f"{contract.colour} {contract.shape}")
def test_images_are_prepared_to_the_bit(contract: Contract, desktop: Desktop, tmp_path: Path) -> None:
    app = tmp_path / "app"
    content = {"schema": "edgekd.bundle/1", "files": [], "variants": [], "golden": {"runs": 1, "inputs": []}}
    content |= {"name": "net", "runtime": {"onnxruntime": {"least": "1.17.0"}}, "inputs": [], "outputs": []}
    height, width = contract.size
    image = {"colour": contract.colour, "layout": contract.layout, "height": height, "width": width}
    image |= {"mean": list(contract.mean), "std": list(contract.std), "resize": "cover-bicubic"}
    content |= {"image": image, "labels": [], "targets": {}, "preparation": {"images": [], "texts": []}, "text": None}
    app.mkdir()
    (app / MANIFEST).write_text(json.dumps(content))
    rng = np.random.default_rng(height)
    sizes = [(height, width), (1, 1), (7, 300), (300, 7), (height, 99), (99, width), (2 * height, 2 * width)]
    for size in [*sizes, *rng.integers(1, 130, (6, 2))]:
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        if size[0] % 2:
            pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)  # overshoots, and is clipped
        (tmp_path / "pixels").write_bytes(pixels.tobytes())
        wanted = prepared(pixels, contract)[None]
        shape = desktop.ask("prepare", app, *size, tmp_path / "pixels", tmp_path / "found")
        assert shape == [str(list(wanted.shape))]
        assert (tmp_path / "found").read_bytes() == wanted.astype("<f4").tobytes()


def test_an_image_is_classified(desktop: Desktop, whole_bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (33, 21, 3), dtype=np.uint8)
    (tmp_path / "pixels").write_bytes(pixels.tobytes())
    found = [
        line.split(" ", 2)
        for line in desktop.ask("classify", whole_bundle, tmp_path / "store", 33, 21, tmp_path / "pixels")
    ]
    model = whole_bundle / manifest(whole_bundle)["targets"][detect_host().name]["model"]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"input": prepared(pixels, IMAGE)[None]})[0][0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    best = np.argsort(-logits, kind="stable")[:3]
    assert [int(number) for number, _, _ in found] == best.tolist()
    assert [label for _, _, label in found] == [LABELS[number] for number in best]
    np.testing.assert_allclose([float(score) for _, score, _ in found], shares[best], atol=1e-4)


@pytest.mark.parametrize(
    "kind", ["float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8"]
)
def test_values_of_every_kind_are_read(kind: str, desktop: Desktop, tmp_path: Path) -> None:
    values = (np.random.default_rng(4).normal(0, 1e3, 64)).astype(kind)
    if kind == "float16":
        values = np.concatenate([values, np.array([0, 6e-8, 1, np.inf, -np.inf, np.nan, 65504], dtype=kind)])
    (tmp_path / "values").write_bytes(values.tobytes())
    found = [float(line) for line in desktop.ask("values", kind, len(values), tmp_path / "values")]
    with np.errstate(invalid="ignore"):  # some are NaN
        np.testing.assert_array_equal(found, values.astype(np.float64))


CPUS = {
    "big and little": "Features\t: fp asimd asimddp i8mm\n\nFeatures\t: fp asimd asimddp\n",
    "newest": "processor: 0\nFeatures : asimd asimddp i8mm\n",
    "old": "Features : fp asimd\n",
    "x86": "flags\t\t: avx avx2 avx_vnni\n",
    "server": "flags : avx2 avx512_vnni\n",
    "silent": "",
}


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
@pytest.mark.parametrize("cpu", CPUS)
def test_the_target_is_that_of_edgekd(cpu: str, machine: str, desktop: Desktop, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPUS[cpu])
    found = desktop.ask("target", machine, tmp_path / "cpuinfo")
    assert found == [classify(machine, parse_cpuinfo(CPUS[cpu])).name]


def test_a_cpu_without_a_target_keeps_its_name(desktop: Desktop, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("")
    assert desktop.ask("target", "armv8l", tmp_path / "cpuinfo") == ["armv8l"]


def test_a_model_is_copied_once_checked_and_followed_by_the_next(desktop: Desktop, app: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    (opened,) = desktop.ask("open", app, store)
    path = opened.removeprefix("opened ")
    sha256 = hashlib.sha256((app / path).read_bytes()).hexdigest()
    copy = store / sha256 / Path(path).name
    assert copy.read_bytes() == (app / path).read_bytes()
    made = copy.stat().st_ino
    assert desktop.ask("open", app, store) == [opened]
    assert copy.stat().st_ino == made
    copy.write_bytes(b"torn")
    (store / "part").write_bytes(b"of a copy that was killed")
    (store / ("0" * 64)).mkdir()
    assert desktop.ask("open", app, store) == [opened]
    assert copy.read_bytes() == (app / path).read_bytes()
    assert sorted(path.name for path in store.iterdir()) == sorted([sha256, "lock"])


def test_a_store_that_cannot_be_written_is_told(desktop: Desktop, app: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"")
    (refusal,) = desktop.ask("open", app, tmp_path / "store")
    assert refusal.startswith(f"refused: {tmp_path / 'store'}: cannot be written: ")


def test_the_instrumented_test_passes_over_assets(desktop: Desktop, whole_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    shutil.copytree(whole_bundle, tmp_path / "assets" / "edgekd-bundle")
    said = desktop.ask("android", tmp_path / "assets", tmp_path / "files")
    model = manifest(whole_bundle)["targets"][detect_host().name]["model"]
    assert said[-3:] == ["edgekd: PASS", f"opened {model}", "set: [ORT_DISABLE_TELEMETRY=1]"]
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["edgekd-bundle"]


def test_the_instrumented_test_fails_with_the_reason(desktop: Desktop, app: Path, tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    told = SPOILS["models missing"](app)
    app.rename(tmp_path / "assets" / "edgekd-bundle")
    said = desktop.ask("android", tmp_path / "assets", tmp_path / "files")
    assert any(line.startswith("error: ") for line in said)
    assert told in said[-1]


def test_a_bitmap_loses_its_transparency(desktop: Desktop) -> None:
    assert desktop.ask("bitmap") == [str([0x10, 0x20, 0x30, 0xFD, 0xFC, 0xFB])]


def test_only_the_thin_layer_knows_android(package: Path) -> None:
    sources = sorted((package / "src" / "main").rglob("*.kt"))
    with_sdk = {path for path in sources if re.search(r"^import androidx?\.", path.read_text(), re.MULTILINE)}
    assert with_sdk == {path for path in sources if SDK in path.as_posix()}
    assert len(sources) > len(with_sdk) > 0


def test_sources_lie_where_their_packages_say(package: Path) -> None:
    for path in package.rglob("*.kt"):
        (named,) = re.findall(r"^package (.+)$", path.read_text(), re.MULTILINE)
        assert path.parent.as_posix().endswith("kotlin/" + named.replace(".", "/"))


def test_the_build_scripts_agree_with_what_is_tested(package: Path, needed: Callable[[str, Path], Path]) -> None:
    build = (package / "build.gradle.kts").read_text()
    settings = (package / "settings.gradle.kts").read_text()
    text = (package / "README.md").read_text()
    assert f'"com.microsoft.onnxruntime:onnxruntime-android:{ONNXRUNTIME}"' in build
    assert ONNXRUNTIME in text
    assert re.findall(r'id\("(.+?)"\)', build) == re.findall(r'id\("(.+?)"\) version', settings)
    archive = onnxruntime_archive(needed, "kotlin")
    (least,) = re.findall(r'minSdkVersion="(\d+)"', (archive / "AndroidManifest.xml").read_text())
    assert re.findall(r"minSdk = (\d+)", build) == [least]
    (folder,) = re.findall(r'FOLDER = "(.+)"', (package / f"src/main/kotlin/{SDK}/AndroidBundle.kt").read_text())
    assert f'into("{folder}")' in build
    assert f'include("{MANIFEST}", "{SIGNATURE}")' in build


def test_onnxruntimes_libraries_suit_pages_of_16_kb(needed: Callable[[str, Path], Path]) -> None:
    libraries = sorted((onnxruntime_archive(needed, "kotlin") / "jni").rglob("*.so"))
    assert {path.parent.name for path in libraries} == {"arm64-v8a", "armeabi-v7a", "x86", "x86_64"}
    for path in libraries:
        assert {alignment for kind, alignment in program_headers(path.read_bytes()) if kind == 1} == {0x4000}


def program_headers(content: bytes) -> list[tuple[int, int]]:
    """Return kind and alignment of what an ELF file has to be loaded (System V ABI, chapter 5)."""
    wide = content[4] == 2
    start = struct.unpack_from("<Q" if wide else "<I", content, 32 if wide else 28)[0]
    size, count = struct.unpack_from("<HH", content, 54 if wide else 42)
    found = []
    for at in range(start, start + size * count, size):
        (kind,) = struct.unpack_from("<I", content, at)
        (alignment,) = struct.unpack_from("<Q" if wide else "<I", content, at + (48 if wide else 28))
        found.append((kind, alignment))
    return found
