"""The Node.js package of a bundle, with the onnxruntime of npm."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from edgekd import bundle
from edgekd.bundling.description import image_of
from edgekd.bundling.manifest import MANIFEST
from edgekd.bundling.packages import PLATFORMS, package_files
from edgekd.bundling.preparation import prepared
from edgekd.bundling.signature import SIGNATURE
from edgekd.data import Contract
from edgekd.targets import classify, detect_host, parse_cpuinfo
from tests.bundling.conftest import (
    IMAGE,
    LABELS,
    SPOILS,
    TEXT_WORDS,
    check_passed,
    contracts,
    image_net,
    manifest,
    other_answers,
    rewrite,
    word_piece,
)
from tests.bundling.npm_packages import VERSIONS, npm_packages
from tests.bundling.test_tokenizer import texts

if TYPE_CHECKING:
    from collections.abc import Callable

NODE = shutil.which("node") or "node"
HERE = Path(__file__).parent
UNSIGNED = f"{MANIFEST}: its signature is not of the given key"
JAVASCRIPT = [
    *HERE.glob("*.mjs"),
    *(Path(bundle.__code__.co_filename).parent / "platforms").glob("*/*.mjs"),
]


@pytest.fixture(scope="session")
def packages(needed: Callable[[str, Path], Path]) -> Path:
    return npm_packages(needed)


@pytest.fixture
def node_app(app: Path, packages: Path) -> Path:
    """Return a bundle whose Node.js package is installed."""
    (app / "node" / "node_modules").symlink_to(packages / "node_modules")
    return app


def run(*arguments: str | Path, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "CI"} | variables
    return subprocess.run(
        [NODE, *arguments], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )


def self_test(app: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    ran = run(app / "node" / "selftest.mjs", *arguments, folder=app.parent)
    assert ran.stderr == ""
    return ran


def use(app: Path, code: str, **variables: str) -> Any:
    """Run an app that may use `openBundle` and `ort`, and return the JSON that it prints."""
    program = 'import { createRequire } from "node:module";\n'
    program += 'import { openBundle, Tensor } from "./edgekd-bundle.mjs";\n'
    program += 'const ort = createRequire(import.meta.url)("onnxruntime-node");\n'
    (app / "node" / "program.mjs").write_text(program + code)
    ran = run("program.mjs", folder=app / "node", **variables)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture
def node_text_app(text_bundle: Path, packages: Path, tmp_path: Path) -> Path:
    """Return a bundle of a model that takes texts, whose Node.js package is installed."""
    app = Path(shutil.copytree(text_bundle, tmp_path / "app"))
    (app / "node" / "node_modules").symlink_to(packages / "node_modules")
    return app


@pytest.mark.parametrize("path", JAVASCRIPT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_module_can_be_parsed(path: Path, needed: Callable[[str, Path], Path]) -> None:
    needed("node", Path(NODE))
    ran = run("--check", path, folder=HERE)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("platform", ["node", "web"])
def test_the_packages_ask_for_what_is_tested(platform: str) -> None:
    wanted = json.loads(package_files(platform)["package.json"])["dependencies"]
    assert wanted == {f"onnxruntime-{platform}": f"^{VERSIONS[f'onnxruntime-{platform}']}"}
    assert PLATFORMS[platform] == ("javascript", platform)


def test_the_self_test_passes(node_app: Path) -> None:
    ran = self_test(node_app)
    check_passed(ran.stdout.splitlines(), node_app, detect_host().name, VERSIONS["onnxruntime-node"])
    assert ran.returncode == 0


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoilt_bundle_is_refused_and_no_model_opened(name: str, node_app: Path) -> None:
    told = SPOILS[name](node_app)
    ran = self_test(node_app)
    last = ran.stdout.splitlines()[-1]
    assert ran.returncode == 1
    assert last.startswith("FAIL: ")
    assert told in last
    code = "let opened = 0;\nort.InferenceSession.create = async () => { opened += 1; };\n"
    code += "const error = await openBundle('..').catch((error) => error);\n"
    code += "console.log(JSON.stringify([opened, error.name, error.message]))"
    opened, kind, message = use(node_app, code)
    assert (opened, kind) == (0, "BundleError")
    assert told in message


def test_a_link_within_the_bundle_is_followed(node_app: Path) -> None:
    (node_app / "models").rename(node_app / "elsewhere")
    (node_app / "models").symlink_to("elsewhere")
    assert self_test(node_app).returncode == 0


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("files.0.sha256", lambda content: content["files"][0].update(sha256="A" * 64)),
        ("files.0.bytes", lambda content: content["files"][0].update(bytes=-1)),
        ("image", lambda content: content.pop("image")),
        ("image.mean", lambda content: content["image"].update(mean=[0.5])),
        ("image.resize", lambda content: content["image"].update(resize="nearest")),
        ("inputs.0.name", lambda content: content["inputs"][0].update(name=None)),
        ("golden.runs", lambda content: content["golden"].update(runs=True)),
        ("golden.inputs.0.shape", lambda content: content["golden"]["inputs"][0]["shape"].append(2)),
        ("golden.inputs.0.dtype", lambda content: content["golden"]["inputs"][0].update(dtype="constructor")),
        ("golden.inputs.0.path", lambda content: content["golden"]["inputs"][0].update(path="golden/none.bin")),
        ("labels.1", lambda content: content["labels"].__setitem__(1, 7)),
        ("variants.0.session", lambda content: content["variants"][0].update(session=[])),
        ("targets.wasm.model", lambda content: content["targets"]["wasm"].update(model="golden/input-0.bin")),
    ],
)
def test_a_manifest_of_another_form_is_refused(
    where: str, change: Callable[[dict[str, Any]], object], node_app: Path
) -> None:
    rewrite(node_app, change)
    ran = self_test(node_app)
    assert ran.stdout == f"FAIL: edgekd-bundle.json: {where} is not as edgekd.bundle/1 has it\n"


@pytest.mark.parametrize("schema", ["[]", "null", '{"schema": null}'])
def test_what_is_no_manifest_at_all(schema: str, node_app: Path) -> None:
    (node_app / "edgekd-bundle.json").write_text(schema)
    assert self_test(node_app).stdout.startswith("FAIL: edgekd-bundle.json: its schema is none; this package reads")


def test_other_answers_fail(node_app: Path) -> None:
    other_answers(node_app)
    ran = self_test(node_app)
    assert ran.stdout.splitlines()[-1].startswith("FAIL: golden: logits differs by 1")
    assert ran.returncode == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("outputs.logits.data[3] = NaN", "logits differs by NaN at most"),
        ("outputs.logits = new Tensor('float32', [1], [1, 1])", "logits has shape [1,1], expected [1,4]"),
        ("outputs.logits = outputs.logits.reshape([4, 1])", "logits has shape [4,1], expected [1,4]"),
    ],
)
def test_nan_and_another_shape_fail(change: str, told: str, node_app: Path) -> None:
    code = f"""
    import {{ hostOf }} from "./edgekd-bundle.mjs";
    import {{ prove }} from "./proof.mjs";
    const host = hostOf("..");
    const open = host.open;
    host.open = async (...what) => {{
      const session = await open(...what);
      return {{
        release: () => {{}},
        run: async (feeds) => {{
          const outputs = {{ ...(await session.run(feeds)) }};
          {change};
          return outputs;
        }},
      }};
    }};
    const lines = [];
    const passed = await prove(host, (line) => lines.push(line));
    console.log(JSON.stringify([passed, lines.at(-1)]));
    """
    passed, last = use(node_app, code)
    assert passed is False
    assert last.startswith(f"FAIL: golden: {told}")


def test_another_preparation_fails(node_app: Path) -> None:
    images = node_app / "node" / "images.mjs"
    text = images.read_text()
    assert text.count("(a + 2)") == 1
    images.write_text(text.replace("(a + 2)", "(a + 2.01)"))
    assert self_test(node_app).stdout.splitlines()[-1] == "FAIL: preparation: image 0 becomes another input here"


@pytest.mark.parametrize("contract", contracts(), ids=lambda contract: f"{contract.colour}-{contract.layout}")
def test_images_become_the_input_to_the_bit(
    contract: Contract, tmp_path: Path, needed: Callable[[str, Path], Path]
) -> None:
    needed("node", Path(NODE))
    for name, content in package_files("node").items():
        (tmp_path / name).write_bytes(content)
    random = np.random.default_rng(3)
    image = image_of(contract)
    assert image is not None
    sizes = [(1, 1), (1, 300), contract.size, *(tuple(random.integers(1, 200, 2)) for _ in range(60))]
    images = [random.integers(0, 256, (height, width, 3)).astype(np.uint8) for height, width in sizes]
    images[-1][:] = np.where(random.random(images[-1].shape) < 0.5, 0, 255)  # bicubic filters overshoot most
    lines = []
    for number, pixels in enumerate(images):
        given = pixels if number % 2 else np.dstack([pixels, pixels[..., :1]])  # transparency is dropped
        encoded = base64.b64encode(given.tobytes()).decode()
        height, width = pixels.shape[:2]
        lines.append({"image": image.model_dump(), "width": width, "height": height, "pixels": encoded})
    ran = subprocess.run(
        [NODE, HERE / "prepare_images.mjs", tmp_path],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(answers) == len(images)
    for pixels, answer in zip(images, answers, strict=True):
        found = np.frombuffer(base64.b64decode(answer["values"]), "<f4").reshape(answer["shape"])
        np.testing.assert_array_equal(found[0], prepared(pixels, contract), strict=True)


@pytest.mark.parametrize("lowercase", [True, False])
def test_texts_become_the_tokenizers_own_numbers(lowercase: bool, node_text_app: Path, tmp_path: Path) -> None:
    tokenizer = word_piece(lowercase=lowercase)
    app = node_text_app
    if not lowercase:
        app = tmp_path / "cased"
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        model, words = node_text_app / "models/net.onnx", tmp_path / "tokenizer.json"
        bundle([model], app, platforms=["node"], tokenizer=words, runs=1)
        (app / "node" / "node_modules").symlink_to((node_text_app / "node" / "node_modules").resolve())
    tokenizer.encode_special_tokens = True
    (app / "node" / "texts.json").write_text(json.dumps(texts()))
    code = 'import { readFile } from "node:fs/promises";\nconst model = await openBundle("..");\n'
    code += (
        "const found = JSON.parse(await readFile('texts.json')).map((text) => model.prepareText(text).input_ids);\n"
    )
    code += "console.log(JSON.stringify(found.map(({ dims, data }) => [dims, Array.from(data, Number)])))"
    expected = [tokenizer.encode(text).ids for text in texts()]
    assert use(app, code) == [[[1, len(ids)], ids] for ids in expected]


def test_a_text_is_answered_and_lone_surrogates_count_as_replacement_characters(node_text_app: Path) -> None:
    code = """
    const model = await openBundle("..");
    const inputs = model.prepareText("Running dogs");
    const { total } = await model.run(inputs);
    const numbers = (tensor) => [tensor.type, tensor.dims, Array.from(tensor.data, Number)];
    const broken = ["dog\\ud800s", "dog\\udc00s", "dogs\\ud800", "dog\\ufffds"].map((text) => model.prepareText(text));
    const found = Object.entries(inputs).map(([name, tensor]) => [name, ...numbers(tensor)]);
    console.log(JSON.stringify([found, total.data[0], broken.map(({ input_ids: ids }) => numbers(ids)[2])]));
    """
    (found, total, broken), words = use(node_text_app, code), ("[CLS]", "run", "##ning", "dog", "##s", "[SEP]")
    ids = [TEXT_WORDS.index(word) for word in words]
    assert found == [["input_ids", "int64", [1, 6], ids], ["attention_mask", "int64", [1, 6], [1] * 6]]
    assert total == sum(ids)
    assert broken == [[TEXT_WORDS.index(word) for word in ("[CLS]", "dog", "##s", "[SEP]")]] * 4


def test_a_mark_of_byte_order_and_lines_of_other_kinds_are_characters(
    tmp_path: Path, needed: Callable[[str, Path], Path]
) -> None:
    needed("node", Path(NODE))
    (tmp_path / "texts.mjs").write_bytes(package_files("node")["texts.mjs"])
    code = r"""
    import { Tokenizer } from "./texts.mjs";
    const text = { unknown: 9, first: 7, last: 8, continuation: "##", longest_word: 3, longest: 6 };
    const bytes = (lines) => new TextEncoder().encode(lines);
    const tokenizer = new Tokenizer(text, bytes("\ufeffa\na\r\n##\u{1f600}\n\u2028\n"), bytes("62-64 drop\n"));
    const given = ["\ufeffa", "a\r", "a\r\u{1f600}", "a\r\u{1f600}\u{1f600}", "\u2028", "a", "bacd\r", "\u2028 ".repeat(9)];
    console.log(JSON.stringify(given.map((one) => tokenizer.ids(one).slice(1, -1))));
    """
    ran = run("--input-type=module", "-e", code, folder=tmp_path)
    assert json.loads(ran.stdout) == [[0], [1], [1, 2], [9], [3], [9], [1], [3, 3, 3, 3]]


def test_the_self_test_proves_how_texts_are_prepared(node_text_app: Path) -> None:
    assert "preparation: 9 of 9 vectors are exact" in self_test(node_text_app).stdout.splitlines()
    path = "tokenizer/characters.txt"
    table = (node_text_app / path).read_text()
    (node_text_app / path).write_text(table.replace("54-54 = 74", "54-54 = 73"))
    rewrite(node_text_app, lambda content: _rehash(node_text_app, content, path))
    ran = self_test(node_text_app)
    assert ran.stdout.splitlines()[-1] == "FAIL: preparation: text 0 becomes another input here"
    assert ran.returncode == 1


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("text", lambda content: content.pop("text")),
        ("text", lambda content: content.update(text=None)),
        ("text.longest", lambda content: content["text"].update(longest=1)),
        ("text.ids", lambda content: content["text"].update(ids=None)),
        ("text.types", lambda content: content["text"].pop("types")),
        ("text.vocabulary", lambda content: content["text"].update(vocabulary="tokenizer/none.txt")),
        ("preparation.texts", lambda content: content["preparation"].pop("texts")),
        ("preparation.texts.1.ids.0", lambda content: content["preparation"]["texts"][1]["ids"].__setitem__(0, "2")),
    ],
)
def test_a_text_of_another_form_is_refused(
    where: str, change: Callable[[dict[str, Any]], object], node_text_app: Path
) -> None:
    rewrite(node_text_app, change)
    assert self_test(node_text_app).stdout == f"FAIL: edgekd-bundle.json: {where} is not as edgekd.bundle/1 has it\n"


def test_a_damaged_table_is_refused_and_no_model_opened(node_text_app: Path) -> None:
    with (node_text_app / "tokenizer" / "vocabulary.txt").open("a") as stream:
        stream.write("dogma\n")
    code = "let opened = 0;\nort.InferenceSession.create = async () => { opened += 1; };\n"
    code += "const error = await openBundle('..').catch((error) => error);\n"
    code += "console.log(JSON.stringify([opened, error.message]))"
    opened, told = use(node_text_app, code)
    assert (opened, told.partition(":")[0]) == (0, "tokenizer/vocabulary.txt")
    assert told.endswith(": truncated or changed")


def test_a_signed_bundle_is_opened_with_its_key_alone(node_app: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    (node_app / SIGNATURE).write_bytes(key.sign((node_app / MANIFEST).read_bytes()))
    public, other = (one.public_key().public_bytes_raw().hex() for one in (key, ed25519.Ed25519PrivateKey.generate()))
    assert self_test(node_app, "--key", public.upper()).returncode == 0
    ran = self_test(node_app, "--key", other)
    assert (ran.returncode, ran.stdout) == (1, f"FAIL: {UNSIGNED}\n")
    assert self_test(node_app, "--key", "").stdout == f"FAIL: {UNSIGNED}\n"
    code = f"""
    import {{ rm, appendFile }} from "node:fs/promises";
    const said = (options) => openBundle("..", options).then(() => "open", (error) => error.message);
    const found = [await said({{ publicKey: {public!r} }})];
    const wrong = [{other!r}, "00".repeat(32), "no key", {public[:-2]!r}, {public + "00"!r}, undefined, null];
    for (const publicKey of wrong) found.push(await said({{ publicKey }}));
    await appendFile("../{MANIFEST}", "{{");
    found.push(await said({{ publicKey: {public!r} }}), (await said()).split(": ")[1]);
    await rm("../{SIGNATURE}");
    found.push(await said({{ publicKey: {public!r} }}));
    console.log(JSON.stringify(found));
    """
    assert use(node_app, code) == ["open", *[UNSIGNED] * 8, "cannot be read", UNSIGNED]


def test_without_ed25519_no_signature_is_right(node_app: Path) -> None:
    (node_app / SIGNATURE).write_bytes(bytes(64))
    code = f"""
    import {{ requireSigned }} from "./signature.mjs";
    const lacking = {{ importKey: async () => {{ throw new DOMException("no such name", "NotSupportedError"); }} }};
    const said = (subtle) => requireSigned(new Uint8Array(9), new Uint8Array(64), "{"11" * 32}", subtle)
      .then(() => "right", (error) => [error.name, error.message]);
    console.log(JSON.stringify([await said(undefined), await said(lacking), await said({{ importKey: 1 }})]));
    """
    told = "a signature cannot be checked here: it takes WebCrypto with Ed25519, in a browser a page from https or localhost"
    assert use(node_app, code) == [["BundleError", told], ["BundleError", told], ["BundleError", UNSIGNED]]


def test_classes_come_with_their_names(node_app: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (33, 47, 3)).astype(np.uint8)
    values = base64.b64encode(pixels.tobytes()).decode()
    code = f"const data = Buffer.from({values!r}, 'base64');\nconst model = await openBundle('..');\n"
    code += "console.log(JSON.stringify(await model.classify({ data, width: 47, height: 33 }, 3)))"
    best = use(node_app, code)
    session = onnxruntime.InferenceSession(node_app / manifest(node_app)["targets"][detect_host().name]["model"])
    logits = session.run(None, {"input": prepared(pixels, IMAGE)[None]})[0][0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-logits)[:3]
    assert [(entry["index"], entry["label"]) for entry in best] == [(n, LABELS[n]) for n in order]
    np.testing.assert_allclose([entry["score"] for entry in best], shares[order], rtol=1e-4)


def test_equal_scores_stand_in_the_order_of_the_classes_and_have_numbers_without_labels(node_app: Path) -> None:
    rewrite(node_app, lambda content: content.update(labels=["only one"]))
    code = "const model = await openBundle('..');\n"
    code += "console.log(JSON.stringify(model.top({ logits: new Tensor('float32', [1, 2, 1, 2], [1, 4]) }, 4)))"
    best = use(node_app, code)
    assert [(entry["index"], entry["label"]) for entry in best] == [(1, "1"), (3, "3"), (0, "only one"), (2, "2")]


def test_pixels_of_another_length_are_refused(node_app: Path) -> None:
    code = "const model = await openBundle('..');\n"
    code += "const error = await model.classify({ data: [1, 2], width: 2, height: 1 }).catch((error) => error);\n"
    code += "console.log(JSON.stringify(error.message))"
    assert use(node_app, code) == "pixels: 2 values are not 2 x 1 of RGB or RGBA"


def test_a_model_that_takes_no_image_and_gives_halves(tmp_path: Path, packages: Path) -> None:
    model = image_net()
    del model.metadata_props[:]
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    last = model.graph.node[-1].output
    last[0] = "full"
    model.graph.node.append(onnx.helper.make_node("Cast", ["full"], ["logits"], to=onnx.TensorProto.FLOAT16))
    onnx.save(model, tmp_path / "net.onnx")
    app = tmp_path / "app"
    bundle([tmp_path / "net.onnx"], app, platforms=["node"])
    (app / "node" / "node_modules").symlink_to(packages / "node_modules")
    ran = self_test(app)
    assert ran.returncode == 0, ran.stdout
    code = """
    const model = await openBundle("..");
    const said = (use) => Promise.resolve().then(use).catch((error) => error.message);
    console.log(JSON.stringify([await said(() => model.classify(null)), await said(() => model.prepareText("a"))]));
    """
    assert use(app, code) == [
        f"this bundle's model does not take {what}; use run()" for what in ("an image", "a text")
    ]
    other = manifest(app)["targets"][detect_host().name]["expected"]["outputs"][0]
    values = np.frombuffer((app / other["path"]).read_bytes(), np.float16) + np.float16(1)
    (app / other["path"]).write_bytes(values.tobytes())
    rewrite(app, lambda content: _rehash(app, content, other["path"]))
    assert self_test(app).stdout.splitlines()[-1].startswith("FAIL: golden: logits differs by 1")


def _rehash(app: Path, content: dict[str, Any], path: str) -> None:
    entry = next(entry for entry in content["files"] if entry["path"] == path)
    entry["sha256"] = hashlib.sha256((app / path).read_bytes()).hexdigest()


def test_a_session_is_opened_as_the_manifest_says(node_app: Path) -> None:
    setting = {"intra_op_num_threads": 3, "intra_op_spinning": False, "enable_cpu_mem_arena": False}

    def change(content: dict[str, Any]) -> None:
        for variant in content["variants"]:
            variant["session"] = {**setting, "graph_optimization_level": "none"}

    rewrite(node_app, change)
    code = "let given;\nconst create = ort.InferenceSession.create;\n"
    code += "ort.InferenceSession.create = (path, options) => { given = options; return create(path, options); };\n"
    code += "await openBundle('..');\nconsole.log(JSON.stringify(given))"
    assert use(node_app, code) == {
        "executionProviders": ["cpu"],
        "intraOpNumThreads": 3,
        "enableCpuMemArena": False,
        "graphOptimizationLevel": "disabled",
        "extra": {"session": {"intra_op": {"allow_spinning": "0"}}},
    }


def test_telemetry_is_off_unless_the_app_says_otherwise(node_app: Path) -> None:
    code = "console.log(JSON.stringify(process.env.ORT_DISABLE_TELEMETRY))"
    program = "import './edgekd-bundle.mjs';\n" + code
    unset = {key: value for key, value in os.environ.items() if key not in ("CI", "ORT_DISABLE_TELEMETRY")}
    for environment, told in ((unset, "1"), ({**unset, "ORT_DISABLE_TELEMETRY": "0"}, "0")):
        ran = subprocess.run(
            [NODE, "--input-type=module", "-e", program],
            cwd=node_app / "node",
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        assert json.loads(ran.stdout) == told
    source = (node_app / "node" / "edgekd-bundle.mjs").read_text()
    assert source.index("ORT_DISABLE_TELEMETRY") < source.index('import("onnxruntime-node")')
    assert 'from "onnxruntime-node"' not in source


def test_a_cpu_is_the_target_that_edgekd_says(tmp_path: Path, needed: Callable[[str, Path], Path]) -> None:
    needed("node", Path(NODE))
    (tmp_path / "cpu.mjs").write_bytes(package_files("node")["cpu.mjs"])
    texts = [
        "",
        "flags\t\t: fpu avx2\n\nflags\t\t: fpu avx2\n",
        "flags\t\t: avx2 avx_vnni\n",
        "flags: avx2 avx512_vnni\nflags: avx2\n",
        "Features\t: asimd asimddp i8mm\nFeatures\t: asimd asimddp\n",
        "Features\t: asimd asimddp i8mm\n",
        "Features\t: asimd\nFeatures\t: asimd asimddp\n",
        "Features\t:\n",
    ]
    code = 'import { classify, parseCpuinfo } from "./cpu.mjs";\nimport process from "node:process";\n'
    code += "const [machines, texts] = JSON.parse(process.argv[1]);\n"
    code += "const found = machines.map((name) => texts.map((text) => classify(name, parseCpuinfo(text))));\n"
    code += "console.log(JSON.stringify(found))"
    ran = run("--input-type=module", "-e", code, json.dumps([["x64", "arm64"], texts]), folder=tmp_path)
    assert json.loads(ran.stdout) == [
        [classify(machine, parse_cpuinfo(text)).name for text in texts] for machine in ("x86_64", "aarch64")
    ]
