"""`manifest.sig`: a signature over the manifest's bytes, and thereby over every digest in it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeq.bundle.contents import SIGNATURE
from edgeq.bundle.errors import SignatureError, UnknownKeyError
from edgeq.bundle.keys import PublicKey, public_of

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


def check_signature(seal: bytes, manifest: bytes, keys: Sequence[PublicKey], where: str) -> str:
    """Check a signature and return the id of the key that made it.

    Args:
        seal: what `manifest.sig` holds.
        manifest: what `manifest.json` holds.
        keys: those that are trusted.
        where: the bundle, for messages.

    Raises:
        UnknownKeyError: none of the keys has the id that it names.
        SignatureError: it is of another form, or of another manifest.
    """
    try:
        told = ManifestSignature.model_validate_json(seal)
        signature = base64.b64decode(told.signature, validate=True)
    except (ValueError, binascii.Error) as error:
        raise SignatureError(
            f"the {SIGNATURE} of {where} is no signature",
            expected=f"JSON with version {SIGNATURE_VERSION}",
            next_step="edgeq sign BUNDLE --key NAME.private.pem",
        ) from error
    key = next((key for key in keys if key.id == told.key), None)
    if key is None:
        raise UnknownKeyError(
            f"{where} was signed with the key {told.key}",
            expected=f"one of {', '.join(key.id for key in keys)}",
            causes=("it comes from somebody else", "the public key that belongs to it was not given"),
        )
    if not key.made(signature, _DOMAIN + manifest):
        raise SignatureError(
            f"the signature of {where} is not that of its manifest",
            causes=("the manifest was changed after it was signed", "the signature is that of another bundle"),
            next_step="do not use it; fetch the bundle again from where it was signed",
        )
    return told.key
