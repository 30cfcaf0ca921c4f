"""Ed25519 keys (RFC 8032) as PEM files: a private one to sign with, a public one to check with.

The private key is PKCS #8 without a password (RFC 8410), readable by its owner alone; the public one is
SubjectPublicKeyInfo. OpenSSL reads and writes both: `openssl genpkey -algorithm ed25519`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from pydantic import BaseModel, ConfigDict

from edgeq.bundle.directory import read_small
from edgeq.bundle.errors import KeyFileError
from edgeq.errors import OutputError, first_line
from edgeq.files import atomic_write

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["KeyPair", "PublicKey", "load_private", "load_public", "make_keys", "public_of"]

_MAX_KEY_BYTES: Final = 16 * 1024
_ID_DIGITS: Final = 16
_OWNER_ONLY: Final = 0o600


class KeyPair(BaseModel):
    """Two files just made, and the id of the keys in them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    private: Path
    public: Path


@dataclass(frozen=True)
class PublicKey:
    """A key to check signatures with: its 32 bytes."""

    raw: bytes

    @property
    def id(self) -> str:
        """The first 16 digits of its SHA-256 in hexadecimal."""
        return hashlib.sha256(self.raw).hexdigest()[:_ID_DIGITS]

    def made(self, signature: bytes, message: bytes) -> bool:
        """Whether the private key beside this one made the signature for the message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def make_keys(name: Path) -> KeyPair:
    """Draw a key pair and write `NAME.private.pem` (mode 0600) and `NAME.public.pem`.

    Raises:
        OutputError: one of them exists, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public = (name.with_name(f"{name.name}.{half}.pem") for half in ("private", "public"))
    for path in (private, public):
        if os.path.lexists(path):
            raise OutputError(f"{path} exists already", next_step="choose another name; a lost key cannot be replaced")
    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    atomic_write(private, lambda file: _write_secret(file, secret))
    atomic_write(public, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return KeyPair(id=public_of(key).id, private=private, public=public)


def _write_secret(file: BinaryIO, secret: bytes) -> None:
    os.fchmod(file.fileno(), _OWNER_ONLY)  # before there is anything to read
    file.write(secret)


def public_of(key: Ed25519PrivateKey) -> PublicKey:
    """The public half of a private key."""
    return PublicKey(key.public_key().public_bytes_raw())


def load_private(path: Path) -> Ed25519PrivateKey:
    """Read a key to sign with.

    Raises:
        KeyFileError: it cannot be read, is no Ed25519 key, or has a password.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = _read(path)
    try:
        key = load_pem_private_key(text, password=None)
    except Exception as error:  # ValueError, TypeError for one with a password, or UnsupportedAlgorithm
        raise _no_key(path, "private", first_line(error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "private", "it is a key of another algorithm")
    return key


def load_public(path: Path) -> PublicKey:
    """Read a key to check with.

    Raises:
        KeyFileError: it cannot be read, or is no public Ed25519 key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    text = _read(path)
    if b"PRIVATE KEY" in text:
        raise _no_key(path, "public", "it is a private key, which belongs only where bundles are signed")
    try:
        key = load_pem_public_key(text)
    except Exception as error:
        raise _no_key(path, "public", first_line(error)) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "public", "it is a key of another algorithm")
    return PublicKey(key.public_bytes_raw())


def _read(path: Path) -> bytes:
    try:
        return read_small(path.resolve(), _MAX_KEY_BYTES)
    except OSError as error:
        raise KeyFileError(
            f"{path} cannot be read: {error.strerror or error}", next_step="edgeq keygen NAME"
        ) from error


def _no_key(path: Path, half: str, cause: str) -> KeyFileError:
    return KeyFileError(
        f"{path} holds no {half} key",
        expected=f"a {half} Ed25519 key in PEM, such as NAME.{half}.pem of edgeq keygen",
        causes=(cause,),
    )
