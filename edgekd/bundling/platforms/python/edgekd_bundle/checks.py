# SPDX-License-Identifier: Apache-2.0
"""The manifest, and whether the files are those that it lists."""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from os import PathLike

    Folder = Union[str, PathLike[str]]

MANIFEST = "edgekd-bundle.json"
SCHEMA = "edgekd.bundle/1"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PIECE = 1 << 20


class BundleError(Exception):
    """A bundle that must not be used; the message says why in a line."""


class Bundle:
    """A bundle's manifest, and the way to its files.

    Attributes:
        folder: Where the manifest lies.
        manifest: Its content.
    """

    def __init__(self, folder: str, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    def get(self, *keys: Union[str, int], kind: Any = dict) -> Any:
        """Return what stands in the manifest under some keys, one within the other.

        Raises:
            BundleError: it is not there, or of another kind.
        """
        found: Any = self.manifest
        for key in keys:
            try:
                found = found[key]
            except (LookupError, TypeError):
                raise _unlike(keys) from None
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
            raise _unlike(keys)
        return found

    def whole_file(self, path: str) -> str:
        """Return the place of a file once it is known to be what the manifest lists.

        Raises:
            BundleError: it is missing, changed, not listed, or outside the bundle.
        """
        place = self._place(path)
        files = self.get("files", kind=list)
        listed = [n for n, entry in enumerate(files) if isinstance(entry, dict) and entry.get("path") == path]
        if len(listed) != 1:
            raise _unlike(("files",))
        size = self.get("files", listed[0], "bytes", kind=int)
        sha256 = self.get("files", listed[0], "sha256", kind=str)
        try:
            found = os.stat(place).st_size
            if found != size:
                raise BundleError(f"{path}: {found} bytes, expected {size}: truncated or changed")
            if _sha256(place) != sha256:
                raise BundleError(f"{path}: its sha256 is not that of the manifest: damaged or changed")
        except OSError:
            raise BundleError(f"{path}: missing") from None
        return place

    def read(self, path: str) -> bytes:
        """Return the content of a file once it is known to be what the manifest lists."""
        return _content(self.whole_file(path))

    def _place(self, path: Any) -> str:
        if not isinstance(path, str) or not all(_PLAIN.fullmatch(name) for name in path.split("/")):
            raise BundleError(f"{path}: a path that leaves the bundle")
        place = os.path.join(self.folder, *path.split("/"))
        if not os.path.isfile(place):
            raise BundleError(f"{path}: missing")
        if not os.path.realpath(place).startswith(os.path.join(os.path.realpath(self.folder), "")):
            raise BundleError(f"{path}: a path that leaves the bundle")
        return place


def read_bundle(folder: Folder, public_key: str | None = None) -> Bundle:
    """Read a bundle's manifest; its files are checked when they are asked for.

    Args:
        folder: Where the manifest lies.
        public_key: 64 hexadecimal digits: only a bundle that is signed with this key is read. Needs the package
            cryptography.

    Raises:
        BundleError: there is none, or of another form, or it is not signed.
    """
    folder = os.fspath(folder)
    try:
        content = _content(os.path.join(folder, MANIFEST))
    except OSError as error:
        raise BundleError(f"{MANIFEST}: cannot be read: {error.strerror or error}") from None
    if public_key is not None:
        _require_signed(folder, content, public_key)
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST}: cannot be read: {error}") from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise BundleError(f"{MANIFEST}: its schema is {schema}; this package reads {SCHEMA}: update the package")
    return Bundle(folder, manifest)


def _require_signed(folder: str, content: bytes, public_key: str) -> None:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise BundleError("a signature cannot be checked here: pip install cryptography") from None
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(_content(os.path.join(folder, f"{MANIFEST}.sig")), content)
    except (OSError, ValueError, InvalidSignature):
        raise BundleError(f"{MANIFEST}: its signature is not of the given key") from None


def _content(place: str) -> bytes:
    with open(place, "rb") as stream:
        return stream.read()


def _sha256(place: str) -> str:
    digest = hashlib.sha256()
    with open(place, "rb") as stream:
        for piece in iter(lambda: stream.read(_PIECE), b""):
            digest.update(piece)
    return digest.hexdigest()


def _unlike(keys: tuple[Union[str, int], ...]) -> BundleError:
    return BundleError(f"{MANIFEST}: {'.'.join(map(str, keys))} is not as {SCHEMA} has it")
