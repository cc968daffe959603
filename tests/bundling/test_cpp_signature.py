"""Signatures in the C++ package of a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from edgekd.bundling.manifest import MANIFEST
from edgekd.bundling.signature import SIGNATURE, public_hex
from edgekd.drivers.sysroot import SITE, sysroot
from tests.bundling.conftest import manifest
from tests.bundling.cpp_programs import ask, library, library_in, lines, run
from tests.bundling.test_bundle import bundle_of
from tests.bundling.test_cpp import emulated
from tests.bundling.test_signature import pem

pytestmark = pytest.mark.xdist_group("cpp")  # one worker compiles
REFUSED = f"{MANIFEST}: its signature is not of the given key"


@pytest.fixture
def key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


@pytest.fixture
def signed(models: list[Path], key: ed25519.Ed25519PrivateKey, tmp_path: Path) -> Path:
    return bundle_of(models[2:], tmp_path / "app", sign=pem(key, tmp_path / "key.pem"))


def self_test(programs: Path, app: Path, *options: str) -> tuple[int, str]:
    ran = run(programs / "selftest", *options, app, library())
    return ran.returncode, lines(ran)[-1]


def test_a_signed_bundle_is_opened_with_its_key_alone(
    programs: Path, signed: Path, key: ed25519.Ed25519PrivateKey
) -> None:
    public = public_hex(key)
    for right in (public, public.upper()):
        assert self_test(programs, signed, "--key", right) == (0, "PASS")
    other = public_hex(ed25519.Ed25519PrivateKey.generate())
    for wrong in (other, "00" * 32, "", "no key", public[:-2], public + "00", "g" + public[1:], " " * 64):
        assert self_test(programs, signed, "--key", wrong) == (1, f"FAIL: {REFUSED}")
    (signed / MANIFEST).write_bytes((signed / MANIFEST).read_bytes() + b"\n")
    assert self_test(programs, signed, "--key", public) == (1, f"FAIL: {REFUSED}")
    assert self_test(programs, signed) == (0, "PASS")


@pytest.mark.parametrize("length", [None, 0, 63, 65])
def test_without_a_signature_of_64_bytes_a_key_is_refused(
    length: int | None, programs: Path, signed: Path, key: ed25519.Ed25519PrivateKey
) -> None:
    content = (signed / SIGNATURE).read_bytes()
    (signed / SIGNATURE).unlink()
    if length is not None:
        (signed / SIGNATURE).write_bytes((content + b"\0")[:length])
    assert self_test(programs, signed, "--key", public_hex(key)) == (1, f"FAIL: {REFUSED}")


def test_an_app_opens_what_is_signed(probes: Path, signed: Path, key: ed25519.Ed25519PrivateKey) -> None:
    path = manifest(signed)["variants"][0]["path"]
    assert ask(probes, "open", signed, library(), public_hex(key)) == [path]
    ran = run(probes / "probe", "open", signed, library(), "00" * 32)
    assert (ran.returncode, lines(ran)) == (1, [REFUSED])


def test_a_key_is_not_forgotten(programs: Path) -> None:
    ran = run(programs / "selftest", "--key")
    assert ran.returncode == 2
    assert ran.stderr.decode().endswith("selftest [--key PUBLIC_KEY] [BUNDLE [ONNXRUNTIME]]\n")


def test_built_without_openssl_it_refuses_a_key_and_reads_texts_on_an_emulated_arm_core(
    arm_programs: Path, text_bundle: Path
) -> None:
    wheel = library_in(sysroot() / SITE / "onnxruntime")
    with emulated("qemu-cortex-a53") as emulator:
        start = [*emulator, arm_programs / "package" / "selftest"]
        ran = run(*start, "--key", "00" * 32, text_bundle, wheel)
        told = "FAIL: a signature cannot be checked here: this program was built without OpenSSL"
        assert (ran.returncode, ran.stdout.decode().splitlines()) == (1, [told])
        said = run(*start, text_bundle, wheel).stdout.decode().splitlines()
        assert (said[3], said[-1]) == ("preparation: 9 of 9 vectors are exact", "PASS")
