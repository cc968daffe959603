"""Signatures of a manifest, Ed25519 (RFC 8032): of its bytes, and so of all that it lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekd.errors import DataError, UsageError, reading, require_extra

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE: Final = "edgekd-bundle.json.sig"


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Return an Ed25519 key from a PEM file without a password.

    Raises:
        UsageError: it cannot be read, or holds another kind of key.
        MissingExtraError: the package cryptography is not installed.
    """
    serialization = require_extra("sign", "cryptography.hazmat.primitives.serialization")
    ed25519 = require_extra("sign", "cryptography.hazmat.primitives.asymmetric.ed25519")
    with reading(path, UsageError, "private key"):
        content = path.read_bytes()
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: not a private key in PEM without a password") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UsageError(f"{path}: not an Ed25519 key; openssl genpkey -algorithm ed25519 -out key.pem makes one")
    found: Ed25519PrivateKey = key
    return found


def public_hex(key: Ed25519PrivateKey) -> str:
    """Return the public half of a private key as 64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


def require_signed(folder: Path, manifest: bytes, public_key: str) -> None:
    """Find out whether the bytes of a bundle's manifest are signed with a key.

    Args:
        folder: The bundle.
        manifest: The bytes.
        public_key: 64 hexadecimal digits.

    Raises:
        DataError: they are not.
        UsageError: that is no public key.
        MissingExtraError: the package cryptography is not installed.
    """
    ed25519 = require_extra("sign", "cryptography.hazmat.primitives.asymmetric.ed25519")
    invalid = require_extra("sign", "cryptography.exceptions").InvalidSignature
    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    except ValueError as error:
        raise UsageError(f"{public_key!r}: not a public key; expected 64 hexadecimal digits") from error
    path = folder / SIGNATURE
    with reading(path, DataError, "signature"):
        signature = path.read_bytes()
    try:
        key.verify(signature, manifest)
    except invalid as error:
        raise DataError(f"{path}: the manifest's signature is not of the given key") from error
