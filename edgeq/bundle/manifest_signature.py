"""`manifest.sig`: a signature over the manifest's bytes, and thereby over every digest in it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeq.bundle.contents import SIGNATURE
from edgeq.bundle.errors import RevokedKeyError, SignatureError, UnknownKeyError
from edgeq.bundle.keys import PublicKey, public_of
from edgeq.strict_json import read_model

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["ManifestSignature", "check_signature", "sign_manifest"]

SIGNATURE_VERSION: Final = "edgeq.signature/1"
_DOMAIN: Final = b"edgeq.bundle/1 manifest\0"
"""Stands before the manifest, so that a signature made for anything else is none of a manifest."""


class ManifestSignature(BaseModel):
    """A signature: the id of the key that made it, and its 64 bytes in base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.signature/1"] = SIGNATURE_VERSION
    key: str = Field(pattern="^[0-9a-f]{16}$")
    signature: str = Field(pattern="^[A-Za-z0-9+/]{86}==$")


def sign_manifest(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """Sign a manifest's bytes; the same key and bytes give the same signature."""
    signature = base64.b64encode(key.sign(_DOMAIN + manifest)).decode("ascii")
    return ManifestSignature(key=public_of(key).id, signature=signature).model_dump_json(indent=1).encode()


def decoded(text: str) -> bytes:
    """The bytes of a base64 text in its one form: nothing skipped, no bit set that stands for nothing.

    Raises:
        ValueError: it is another.
    """
    found = base64.b64decode(text, validate=True)
    if base64.b64encode(found).decode("ascii") != text:
        raise ValueError(f"{text!r:.100} is not the base64 that encodes its bytes")
    return found


def check_signature(
    seal: bytes, manifest: bytes, keys: Sequence[PublicKey], where: str, revoked: Mapping[str, str] | None = None
) -> str:
    """Check a signature and return the id of the key that made it.

    Args:
        seal: what `manifest.sig` holds.
        manifest: what `manifest.json` holds.
        keys: those that are trusted.
        where: the bundle, for messages.
        revoked: ids of keys that must not be trusted any more -> why.

    Raises:
        RevokedKeyError: it names one of those.
        UnknownKeyError: none of the keys has the id that it names.
        SignatureError: it is of another form, or of another manifest.
    """
    try:
        told = read_model(ManifestSignature, seal)
        signature = decoded(told.signature)
    except ValueError as error:
        raise SignatureError(
            f"the {SIGNATURE} of {where} is no signature",
            expected=f"JSON with version {SIGNATURE_VERSION}",
            next_step="edgeq sign BUNDLE --key NAME.private.pem",
        ) from error
    if revoked and told.key in revoked:
        raise RevokedKeyError(
            f"{where} was signed with the key {told.key}, which is revoked: {revoked[told.key]}",
            expected=f"one of {', '.join(key.id for key in keys)}" if keys else "a key that is trusted today",
            next_step="install a bundle that was signed with a key of today",
        )
    key = next((key for key in keys if key.id == told.key), None)
    if key is None:
        raise UnknownKeyError(
            f"{where} was signed with the key {told.key}",
            expected=f"one of {', '.join(key.id for key in keys)}" if keys else "a key that is trusted here",
            causes=("it comes from somebody else", "the public key that belongs to it was not given"),
        )
    if not key.made(signature, _DOMAIN + manifest):
        raise SignatureError(
            f"the signature of {where} is not that of its manifest",
            causes=("the manifest was changed after it was signed", "the signature is that of another bundle"),
            next_step="do not use it; fetch the bundle again from where it was signed",
        )
    return told.key
