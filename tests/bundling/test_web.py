"""The browser's package of a bundle: its page in Chromium, and the server that comes with it."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import re
import shutil
import subprocess
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from PIL import Image

from edgekd import bundle
from edgekd.bundling.manifest import MANIFEST
from edgekd.bundling.preparation import prepared
from edgekd.bundling.signature import SIGNATURE
from edgekd.data.image_folder import decode
from tests.bundling.conftest import (
    IMAGE,
    LABELS,
    SPOILS,
    TEXT_WORDS,
    check_passed,
    image_net,
    other_answers,
    rewrite,
)
from tests.bundling.npm_packages import VERSIONS, npm_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Visit = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.xdist_group("browser")
NODE = shutil.which("node") or "node"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@pytest.fixture(scope="session")
def packages(needed: Callable[[str, Path], Path]) -> Path:
    return npm_packages(needed)


@pytest.fixture
def web_app(app: Path, packages: Path) -> Path:
    return install(app, packages)


def install(app: Path, packages: Path) -> Path:
    """Put what a page needs of onnxruntime-web into a bundle."""
    inner = Path("node_modules", "onnxruntime-web", "dist")
    (app / "web" / inner).mkdir(parents=True)
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        shutil.copy(packages / inner / name, app / "web" / inner / name)
    return app


@contextmanager
def served(app: Path) -> Iterator[str]:
    """Serve a bundle as `npm start` does; gives the address of its page."""
    command = [NODE, app / "web" / "serve.mjs", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=app.parent) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


@contextmanager
def plainly_served(app: Path) -> Iterator[str]:
    """Serve a bundle without the headers that isolate a page."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(app))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/web/index.html"
        server.shutdown()


@pytest.fixture(scope="session")
def visit(packages: Path, needed: Callable[[str, Path], Path]) -> Iterator[Visit]:
    """Give a function that visits a page, and returns what drive_browser.mjs says of it."""
    browser = needed("chromium", Path(next(filter(None, map(shutil.which, BROWSERS)), "/usr/bin/chromium")))
    command = [NODE, Path(__file__).with_name("drive_browser.mjs"), packages, browser]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None

        def visit(url: str, wait: str = "[data-ready],[data-failed],[data-selftest]", **more: Any) -> dict[str, Any]:
            driver.stdin.write(json.dumps({"url": url, "wait": wait, **more}) + "\n")
            driver.stdin.flush()
            found: dict[str, Any] = json.loads(driver.stdout.readline())
            assert "error" not in found, found
            return found

        yield visit
        driver.stdin.close()


def test_the_self_test_passes(web_app: Path, visit: Visit) -> None:
    with served(web_app) as page:
        read = "[document.documentElement.dataset.selftest, document.getElementById('lines').textContent]"
        found = visit(f"{page}?selftest", read=read)
    state, said = found["found"]
    check_passed(said.splitlines(), web_app, "wasm", VERSIONS["onnxruntime-web"])
    assert (found["title"], state, found["complaints"]) == ("PASS", "PASS", [])


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoilt_bundle_is_refused_and_no_model_opened(name: str, web_app: Path, visit: Visit) -> None:
    told = SPOILS[name](web_app)
    if name == "link that leads out":
        told = ": missing"  # its server does not follow it
    with served(web_app) as page:
        tested = visit(f"{page}?selftest", read="document.getElementById('lines').textContent.split('\\n').at(-2)")
        opened = visit(page, read="performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert tested["title"] == "FAIL"
    assert tested["found"].startswith("FAIL: ")
    assert told in tested["found"]
    assert told in opened["text"]
    assert "The model was not opened." in opened["text"]
    assert not [name for name in opened["found"] if name.endswith(".wasm")]


def test_other_answers_fail(web_app: Path, visit: Visit) -> None:
    other_answers(web_app)
    with served(web_app) as page:
        found = visit(f"{page}?selftest")
    assert found["title"] == "FAIL"
    assert "FAIL: golden: logits differs by 1" in found["text"]


@pytest.mark.parametrize("way", ["choose", "drop"])
def test_an_image_is_answered_and_hostile_names_stay_text(
    way: str, web_app: Path, visit: Visit, tmp_path: Path
) -> None:
    hostile = '<img src=x onerror="document.title=1">'
    labels = [hostile, *LABELS[1:]]
    rewrite(web_app, lambda content: content.update(labels=labels, name=hostile))
    picture = tmp_path / "<b onmouseover=alert(1)>.png"
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (33, 47, 3)).astype(np.uint8)).save(picture)
    read = (
        "[...document.querySelectorAll('#best li')].map((item) => [...item.children].map((part) => part.textContent))"
    )
    with served(web_app) as page:
        found = visit(page, **{way: str(picture)}, then="[data-answered=yes]", read=read)
    assert found["complaints"] == []
    assert found["title"] == hostile
    assert sorted(label for label, _, _ in found["found"]) == sorted(labels)
    shares = [float(score.removesuffix(" %")) for _, score, _ in found["found"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert re.search(r"\d\.\d ms for the model, \d+\.\d ms before it to prepare 47 . 33 pixels", found["text"])
    assert hostile in found["text"]


def test_what_is_no_image_is_said_and_the_next_image_is_taken(web_app: Path, visit: Visit, tmp_path: Path) -> None:
    bad = tmp_path / "<i>bad.png"
    bad.write_bytes(b"no image")
    read = "[document.getElementById('error').textContent, document.getElementById('answer').hidden]"
    with served(web_app) as page:
        found = visit(page, choose=str(bad), then="[data-answered=yes]", read=read)
    told, hidden = found["found"]
    assert told.startswith("<i>bad.png: ")
    assert hidden


def test_threads_need_an_isolated_page(web_app: Path, visit: Visit) -> None:
    def change(content: dict[str, Any]) -> None:
        for variant in content["variants"]:
            variant["session"]["intra_op_num_threads"] = 3

    rewrite(web_app, change)
    read = "[crossOriginIsolated, document.documentElement.dataset.threads]"
    with served(web_app) as page:
        isolated = visit(page, read=read)
    with plainly_served(web_app) as page:
        plain = visit(page, read=read)
        tested = visit(f"{page}?selftest")
    assert (isolated["found"], plain["found"]) == ([True, "3"], [False, "1"])
    assert "3 threads" in isolated["text"]
    assert "1 thread\n" in plain["text"]
    assert tested["title"] == "PASS"
    assert [isolated["complaints"], plain["complaints"], tested["complaints"]] == [[], [], []]


def test_image_files_become_the_input_to_the_bit(web_app: Path, visit: Visit, tmp_path: Path) -> None:
    """Also where they are transparent, or carry a colour profile or a turn, none of which edgekd heeds."""
    random = np.random.default_rng(7)
    names = ["rgb.png", "alpha.png", "gray.png", "palette.png", "gamma.png", "turned.jpg"]
    pixels = [random.integers(0, 256, (31 + n, 45 - n, 3)).astype(np.uint8) for n in range(len(names))]
    alpha = random.integers(0, 256, pixels[1].shape[:2]).astype(np.uint8)
    alpha[:9] = 0
    images = [Image.fromarray(values) for values in pixels]
    images[1] = Image.fromarray(np.dstack([pixels[1], alpha]))
    images[2] = images[2].convert("L")
    images[3] = images[3].quantize(32)
    for name, image in zip(names[:4], images[:4], strict=True):
        image.save(web_app / name)
    (web_app / "gamma.png").write_bytes(_with_gamma(images[4]))
    flat = Image.new("RGB", (40, 24), (120, 120, 120))  # gray levels are the same from every JPEG decoder
    flat.paste((16, 16, 16), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x112] = 6
    flat.save(web_app / "turned.jpg", exif=exif, quality=100)
    read = f"""(async () => {{
      const {{ pixelsOf }} = await import(new URL("edgekd-bundle.mjs", location.href));
      const {{ prepareImage }} = await import(new URL("images.mjs", location.href));
      const {{ image }} = await (await fetch("../edgekd-bundle.json")).json();
      const found = [];
      for (const name of {json.dumps(names)}) {{
        const {{ data }} = prepareImage(await pixelsOf(await (await fetch("../" + name)).blob()), image);
        const digest = await crypto.subtle.digest("SHA-256", data);
        found.push(Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join(""));
      }}
      return found;
    }})()"""
    with served(web_app) as page:
        found = visit(page, read=read)["found"]
    for name, sha256 in zip(names, found, strict=True):
        with Image.open(web_app / name) as image:
            own = decode(web_app / name, image.size[::-1], "RGB")
        assert sha256 == hashlib.sha256(prepared(own, IMAGE).tobytes()).hexdigest(), name


def _with_gamma(image: Image.Image) -> bytes:
    """Return a PNG that asks for a gamma of 1, which a browser that manages colours would apply."""
    import struct
    import zlib

    stream = io.BytesIO()
    image.save(stream, "PNG")
    content = stream.getvalue()
    chunk = b"gAMA" + struct.pack(">I", 100000)
    end = 8 + 25  # signature and IHDR
    return content[:end] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[end:]


def test_a_model_that_takes_no_image(tmp_path: Path, packages: Path, visit: Visit) -> None:
    model = image_net()
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "net.onnx")
    bundle([tmp_path / "net.onnx"], tmp_path / "app", platforms=["web"])
    with served(install(tmp_path / "app", packages)) as page:
        assert "This model takes no image and no text." in visit(page)["text"]
        assert visit(f"{page}?selftest")["title"] == "PASS"


def test_a_text_is_answered(text_bundle: Path, tmp_path: Path, packages: Path, visit: Visit) -> None:
    app = install(Path(shutil.copytree(text_bundle, tmp_path / "app")), packages)
    read = "[document.getElementById('values').textContent, document.getElementById('drop').checkVisibility()]"
    total = sum(TEXT_WORDS.index(word) for word in ("[CLS]", "run", "##ning", "dog", "##s", "[SEP]"))
    with served(app) as page:
        tested = visit(f"{page}?selftest")
        found = visit(page, enter="Running dogs", then="[data-answered=yes]", read=read)
        rewrite(app, lambda content: content.update(labels=["<i>only"]))
        named = visit(page, enter="dog", then="[data-answered=yes]")
    assert (tested["title"], tested["complaints"]) == ("PASS", [])
    assert "preparation: 9 of 9 vectors are exact" in tested["text"].splitlines()
    assert (found["found"], found["complaints"]) == ([f"total: float32 [1, 1]\n{total}", False], [])
    assert re.search(r"\d\.\d ms for the model, \d+\.\d ms before it to prepare 6 tokens", found["text"])
    assert re.search(r"<i>only\s+100\.0 %", named["text"])


def test_a_signed_bundle_is_opened_with_its_key_alone(web_app: Path, visit: Visit) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    public, signature = key.public_key().public_bytes_raw().hex(), web_app / SIGNATURE
    signature.write_bytes(key.sign((web_app / MANIFEST).read_bytes()))
    unsigned = f"{MANIFEST}: its signature is not of the given key"
    with served(web_app) as page:
        assert visit(f"{page}?selftest&key={public}")["title"] == "PASS"
        for wrong in ("11" * 32, ""):
            assert f"FAIL: {unsigned}" in visit(f"{page}?selftest&key={wrong}")["text"].splitlines()
        signature.unlink()
        assert f"FAIL: {unsigned}" in visit(f"{page}?selftest&key={public}")["text"].splitlines()
        opened = visit(f"{page}?key={public}")
    assert unsigned in opened["text"]
    assert "The model was not opened." in opened["text"]


def test_the_server_gives_what_is_in_the_bundle_and_nothing_else(
    app: Path, needed: Callable[[str, Path], Path]
) -> None:
    needed("node", Path(NODE))
    (app.parent / "secret").write_text("secret")
    (app / "web" / "link").symlink_to(app.parent / "secret")
    (app.parent / "app-twin").mkdir()
    (app.parent / "app-twin" / "secret").write_text("secret")
    (app / "web" / "twin").symlink_to(app.parent / "app-twin")
    (app / "web" / "module.wasm").write_bytes(b"\0asm")

    def ask(path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()

    with served(app) as page:
        host, port = page.removeprefix("http://").partition("/")[0].split(":")
        assert host == "127.0.0.1"
        connection = http.client.HTTPConnection(host, int(port))
        for path, kind in (
            ("/web/index.html?selftest", "text/html; charset=utf-8"),
            ("/web/page.mjs", "text/javascript; charset=utf-8"),
            ("/web/module.wasm", "application/wasm"),
            ("/edgekd-bundle.json", "application/json"),
            ("/models/net.onnx", "application/octet-stream"),
        ):
            status, headers, content = ask(path)
            assert (status, headers["Content-Type"]) == (200, kind)
            assert {**headers, **ISOLATED} == headers
            assert content == (app / path.partition("?")[0][1:]).read_bytes()
        for path in (
            *("/../secret", "/web/../../secret", "/%2e%2e/secret", "/..%2fsecret", "/web/..%2f..%2fsecret"),
            *(
                "/../app-twin/secret",
                "/web/twin/secret",
                "/web/link",
                "/web",
                "/none",
                "/..%5csecret",
                "/%00",
                "//etc/passwd",
            ),
        ):
            status, headers, content = ask(path)
            assert (status, b"secret" in content) == (404, False), path
        assert ask("/%ff")[0] == 400
        assert ask("/web/index.html", "POST")[0] == 405
        assert ask("/web/index.html", "HEAD")[::2] == (200, b"")
        assert ask("/?selftest")[1]["Location"] == "/web/index.html?selftest"
        connection.close()


def test_a_taken_port_is_said(app: Path, needed: Callable[[str, Path], Path]) -> None:
    needed("node", Path(NODE))
    with served(app) as page:
        port = re.search(r":(\d+)/", page)[1]
        command = [NODE, app / "web" / "serve.mjs", "--port", port]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 1
    assert ran.stderr.startswith("cannot listen: ")
