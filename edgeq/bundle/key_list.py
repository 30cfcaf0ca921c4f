"""Keys that may sign bundles, listed and signed by root keys: how devices get a new key, and lose trust in an old one.

The rules are those that The Update Framework has for its root role (TUF specification 1.0, section 5.3): a list is
taken in place of another only if as many root keys of the old list have signed it as the old list asks for, and as many
of its own as it asks for itself, and only if its number is higher. Root keys can thus be replaced, too, and one stolen
root key does nothing where the threshold is two.

What is signed are the bytes of the list, which travel as base64 beside the signatures: nothing has to be written in the
same way twice for a signature to be right (as in DSSE, https://github.com/secure-systems-lab/dsse).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeq.bundle.directory import read_small
from edgeq.bundle.errors import KeyListError
from edgeq.bundle.keys import PublicKey, public_of
from edgeq.bundle.manifest_signature import decoded
from edgeq.bundle.release import Moment
from edgeq.errors import InputError, first_line
from edgeq.files import atomic_write
from edgeq.strict_json import read_model

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "KeyList",
    "ListedKey",
    "RevokedKey",
    "SignedKeyList",
    "accepted",
    "check_first",
    "load_list",
    "next_list",
    "sign_list",
]

_DOMAIN: Final = b"edgeq.keys/1 list\0"
"""Stands before the list, so that a signature made for anything else is none of a list."""

_MOST_BYTES: Final = 1 << 20
_MOST_KEYS: Final = 256
_KEY_BYTES: Final = 32


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a text has characters that cannot be shown")
    return text


_Text = Annotated[str, AfterValidator(_printable)]
"""Shown on a terminal, which a list must not command."""

KeyId = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


class ListedKey(BaseModel):
    """A public key: its id, its 32 bytes in base64, and what people call it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: KeyId
    public: str
    name: _Text = Field(default="", max_length=100)

    @classmethod
    def of(cls, key: PublicKey, name: str = "") -> ListedKey:
        """As it is listed."""
        return cls(id=key.id, public=base64.b64encode(key.raw).decode("ascii"), name=name)

    @property
    def key(self) -> PublicKey:
        """To check with."""
        return PublicKey(decoded(self.public))

    @model_validator(mode="after")
    def _id_is_that_of_the_key(self) -> ListedKey:
        if len(decoded(self.public)) != _KEY_BYTES or self.key.id != self.id:
            raise ValueError(f"{self.id} is not the id of the key beside it")
        return self


class RevokedKey(BaseModel):
    """A key that must not be trusted any more, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: KeyId
    because: _Text = Field(min_length=1, max_length=500)


class KeyList(BaseModel):
    """Who may sign.

    Attributes:
        number: above that of every list before.
        made: when, by the clock of where it was made.
        roots: keys that sign lists.
        threshold: how many of them must.
        keys: that sign bundles.
        revoked: keys that did once, and why they must not any more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.keys/1"] = "edgeq.keys/1"
    number: int = Field(ge=1, le=2**63 - 1)
    made: Moment
    roots: tuple[ListedKey, ...] = Field(min_length=1, max_length=_MOST_KEYS)
    threshold: int = Field(ge=1)
    keys: tuple[ListedKey, ...] = Field(max_length=_MOST_KEYS)
    revoked: tuple[RevokedKey, ...] = Field(default=(), max_length=_MOST_KEYS)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> KeyList:
        for each in (self.roots, self.keys, self.revoked):
            if len({key.id for key in each}) < len(each):
                raise ValueError("a key is listed twice")
        if self.threshold > len(self.roots):
            raise ValueError(f"{self.threshold} root keys must sign, and there are {len(self.roots)}")
        if {key.id for key in (*self.keys, *self.roots)} & {key.id for key in self.revoked}:
            raise ValueError("a key is both trusted and revoked")
        return self


class ListSignature(BaseModel):
    """Of a list: the id of the root key that made it, and its 64 bytes in base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: KeyId
    signature: str = Field(pattern="^[A-Za-z0-9+/]{86}==$")


class SignedKeyList(BaseModel):
    """The file: the bytes of a list in base64, and signatures of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.signed-keys/1"] = "edgeq.signed-keys/1"
    payload: str
    signatures: tuple[ListSignature, ...] = Field(default=(), max_length=_MOST_KEYS)

    @classmethod
    def of(cls, keys: KeyList) -> SignedKeyList:
        """A list that nobody has signed yet."""
        return cls(payload=base64.b64encode(keys.model_dump_json().encode()).decode("ascii"))

    @property
    def keys(self) -> KeyList:
        """What it lists; raises ValueError where that is none."""
        return read_model(KeyList, decoded(self.payload))

    def signers(self, keys: Iterable[PublicKey]) -> frozenset[str]:
        """Ids of those of the keys that have signed it."""
        known = {key.id: key for key in keys}
        message = _DOMAIN + decoded(self.payload)
        return frozenset(
            each.key
            for each in self.signatures
            if each.key in known and known[each.key].made(decoded(each.signature), message)
        )

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        atomic_write(path, self.model_dump_json(indent=1).encode())


def load_list(path: Path) -> SignedKeyList:
    """Read a list; its signatures are not checked.

    Raises:
        KeyListError: it cannot be read, or is no list of keys.
    """
    try:
        signed = read_model(SignedKeyList, read_small(path, _MOST_BYTES))
        _ = signed.keys
        for each in signed.signatures:
            decoded(each.signature)
    except (OSError, ValueError) as error:
        raise KeyListError(
            f"{path} is no list of keys",
            expected="a file of `edgeq trust make`, signed with `edgeq trust sign`",
            causes=(_reason(error),),
        ) from error
    return signed


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return str(error.errors(include_url=False, include_input=False)[0]["msg"])[:200]
    return first_line(error)


def sign_list(signed: SignedKeyList, key: Ed25519PrivateKey) -> SignedKeyList:
    """Add a root key's signature; one that it made before is replaced."""
    made = key.sign(_DOMAIN + decoded(signed.payload))
    ours = ListSignature(key=public_of(key).id, signature=base64.b64encode(made).decode("ascii"))
    others = tuple(each for each in signed.signatures if each.key != ours.key)
    return signed.model_copy(update={"signatures": (*others, ours)})


def check_first(signed: SignedKeyList, roots: Sequence[PublicKey], where: str) -> KeyList:
    """The first list that a device takes: signed by root keys that a person named.

    Args:
        signed: the list.
        roots: keys that were named; as many as the list asks for must have signed it, and be root keys in it.
        where: its file, for messages.

    Raises:
        KeyListError: it is not signed so.
    """
    keys = signed.keys
    listed = {root.id for root in keys.roots}
    _check(
        signed, [root for root in roots if root.id in listed], keys.threshold, where, "the root keys that were named"
    )
    return keys


def accepted(signed: SignedKeyList, before: KeyList, where: str) -> KeyList:
    """The list that takes another's place.

    Args:
        signed: the new list.
        before: the one that is known.
        where: its file, for messages.

    Raises:
        KeyListError: it is older, or not signed by enough root keys of both.
    """
    keys = signed.keys
    if keys.number < before.number or (keys.number == before.number and keys != before):
        raise KeyListError(
            f"{where} is list {keys.number}, and list {before.number} is known here",
            expected="a higher number",
            causes=("it is older", "two lists were made of the same one"),
            next_step="edgeq trust make, with the newest list as --from",
        )
    _check(signed, [root.key for root in before.roots], before.threshold, where, "the root keys known so far")
    _check(signed, [root.key for root in keys.roots], keys.threshold, where, "its own root keys")
    return keys


def _check(signed: SignedKeyList, roots: Sequence[PublicKey], threshold: int, where: str, whose: str) -> None:
    found = signed.signers(roots)
    if len(found) < threshold:
        ids = ", ".join(root.id for root in roots) or "none of them is one in the list"
        raise KeyListError(
            f"{where} was signed by {len(found)} of {whose}",
            expected=f"{threshold} of {ids}",
            causes=("it comes from somebody else", "it was changed after it was signed", "not all have signed it yet"),
            next_step="edgeq trust sign LIST --key ROOT.private.pem",
        )


def next_list(
    before: KeyList | None,
    made: str,
    *,
    roots: Sequence[ListedKey],
    keys: Sequence[ListedKey],
    revoked: Sequence[RevokedKey],
    threshold: int | None,
) -> KeyList:
    """A list in another's place: what is given is added to it, and what is revoked taken out.

    Args:
        before: the list to begin with; None for the first one.
        made: the moment.
        roots, keys: to add.
        revoked: to take out, whether they are root keys or others.
        threshold: None keeps it; of a first list it is 1.

    Raises:
        InputError: no list can be made of these.
    """
    gone = {key.id for key in revoked}
    old = ((), (), ()) if before is None else (before.roots, before.keys, before.revoked)

    def together(before: Sequence[ListedKey], new: Sequence[ListedKey]) -> tuple[ListedKey, ...]:
        return tuple({key.id: key for key in (*before, *new) if key.id not in gone}.values())

    try:
        return KeyList(
            number=1 if before is None else before.number + 1,
            made=made,
            roots=together(old[0], roots),
            threshold=threshold or (1 if before is None else before.threshold),
            keys=together(old[1], keys),
            revoked=tuple({key.id: key for key in (*old[2], *revoked)}.values()),
        )
    except ValueError as error:
        raise InputError(f"these keys are no list: {_reason(error)}", next_step="edgeq trust make --help") from error
