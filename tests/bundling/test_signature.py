"""Signed bundles: one that was changed, or signed with another key, is not opened."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from edgekd.bundling.manifest import MANIFEST
from edgekd.bundling.signature import SIGNATURE, public_hex, read_private_key, require_signed
from edgekd.errors import DataError, UsageError
from tests.bundling.test_bundle import bundle_of, command_of
from tests.bundling.test_python_package import run


def pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey, path: Path) -> Path:
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return pem(ed25519.Ed25519PrivateKey.generate(), tmp_path / "key.pem")


def self_test(app: Path, *arguments: str) -> tuple[int, str]:
    ran = run([str(app / "python" / "selftest.py"), *arguments], app)
    assert ran.stderr == ""
    return ran.returncode, ran.stdout.splitlines()[-1]


def test_a_signed_bundle_is_opened_with_its_key_alone(models: list[Path], key: Path, tmp_path: Path) -> None:
    app = bundle_of(models[2:], tmp_path / "app", sign=key)
    public = public_hex(read_private_key(key))
    assert (app / SIGNATURE).stat().st_size == 64
    assert self_test(app, "--key", public) == (0, "PASS")
    refused = (1, f"FAIL: {MANIFEST}: its signature is not of the given key")
    other = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    for wrong in (other, "00" * 32, "", "no key", public[:-2]):
        assert self_test(app, "--key", wrong) == refused
    (app / MANIFEST).write_bytes((app / MANIFEST).read_bytes() + b"\n")
    assert self_test(app, "--key", public) == refused
    assert self_test(app) == (0, "PASS")


def test_an_unsigned_bundle_is_not_opened_with_a_key(models: list[Path], tmp_path: Path) -> None:
    app = bundle_of(models[2:], tmp_path / "app")
    code, told = self_test(app, "--key", "11" * 32)
    assert (code, told) == (1, f"FAIL: {MANIFEST}: its signature is not of the given key")


def test_the_key_of_the_document_is_one(models: list[Path], tmp_path: Path) -> None:
    made = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", made], check=True)
    ran = command_of(models[2:], tmp_path / "app", "--sign", str(made))
    assert ran.exit_code == 0, ran.output
    public = public_hex(read_private_key(made))
    assert f"signed; the public key is {public}" in ran.output
    assert self_test(tmp_path / "app", "--key", public) == (0, "PASS")
    assert b"PRIVATE" not in b"".join(path.read_bytes() for path in (tmp_path / "app").rglob("*") if path.is_file())


def test_a_key_is_read_once_and_may_come_out_of_a_pipe(models: list[Path], key: Path, tmp_path: Path) -> None:
    out, into = os.pipe()
    os.write(into, key.read_bytes())
    os.close(into)
    ran = command_of(models[2:], tmp_path / "app", "--sign", f"/dev/fd/{out}")
    os.close(out)
    assert ran.exit_code == 0, ran.output
    assert f"signed; the public key is {public_hex(read_private_key(key))}" in ran.output


def test_what_is_no_key_is_refused(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no key")
    with pytest.raises(UsageError, match="not a private key in PEM"):
        bundle_of(models[2:], tmp_path / "app", sign=tmp_path / "text.pem")
    with pytest.raises(UsageError, match="not an Ed25519 key"):
        bundle_of(models[2:], tmp_path / "app", sign=pem(ec.generate_private_key(ec.SECP256R1()), tmp_path / "e.pem"))
    with pytest.raises(UsageError, match="no such private key"):
        bundle_of(models[2:], tmp_path / "app", sign=tmp_path / "missing.pem")
    assert not (tmp_path / "app").exists()


def test_the_library_checks_a_signature(models: list[Path], key: Path, tmp_path: Path) -> None:
    app = bundle_of(models[2:], tmp_path / "app", sign=key)
    public, content = public_hex(read_private_key(key)), (app / MANIFEST).read_bytes()
    require_signed(app, content, public)
    with pytest.raises(DataError, match="signature is not of the given key"):
        require_signed(app, content + b" ", public)
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        require_signed(app, content, "00")
    (app / SIGNATURE).unlink()
    with pytest.raises(DataError, match="no such signature"):
        require_signed(app, content, public)
