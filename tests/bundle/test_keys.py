"""Keys: what is written is read back, and what is no key is refused."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeq.bundle.errors import BundleError, KeyFileError
from edgeq.bundle.keys import PublicKey, load_private, load_public, make_keys, public_of
from edgeq.errors import OutputError

# RFC 8032, section 7.1, test 3: seed, public key, message, signature.
SEED = "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7"
PUBLIC = "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
MESSAGE = "af82"
SIGNED = (
    "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
    "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
)


def test_a_pair_is_read_back(tmp_path: Path) -> None:
    pair = make_keys(tmp_path / "fleet")
    assert (pair.private.name, pair.public.name) == ("fleet.private.pem", "fleet.public.pem")
    private, public = load_private(pair.private), load_public(pair.public)
    assert public_of(private) == public
    assert public.made(private.sign(b"message"), b"message")
    assert not public.made(private.sign(b"message"), b"massage")
    assert pair.id == public.id == hashlib.sha256(public.raw).hexdigest()[:16]


def test_only_the_owner_may_read_the_private_key(tmp_path: Path) -> None:
    pair = make_keys(tmp_path / "keys" / "fleet")
    assert stat.S_IMODE(pair.private.stat().st_mode) == 0o600


def test_two_pairs_differ(tmp_path: Path) -> None:
    assert make_keys(tmp_path / "a").id != make_keys(tmp_path / "b").id


@pytest.mark.parametrize("half", ["private", "public"])
def test_a_key_is_never_written_over(tmp_path: Path, half: str) -> None:
    (tmp_path / f"fleet.{half}.pem").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        make_keys(tmp_path / "fleet")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_the_signature_of_the_standard() -> None:
    public = PublicKey(bytes.fromhex(PUBLIC))
    assert public_of(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEED))) == public
    assert public.made(bytes.fromhex(SIGNED), bytes.fromhex(MESSAGE))
    assert not public.made(bytes.fromhex(SIGNED)[::-1], bytes.fromhex(MESSAGE))
    assert not public.made(b"", bytes.fromhex(MESSAGE))


def test_a_key_may_be_reached_by_a_link(tmp_path: Path) -> None:
    pair = make_keys(tmp_path / "fleet")
    (tmp_path / "current.pem").symlink_to(pair.public)
    assert load_public(tmp_path / "current.pem").id == pair.id


def test_halves_are_not_taken_for_each_other(tmp_path: Path) -> None:
    pair = make_keys(tmp_path / "fleet")
    with pytest.raises(KeyFileError, match="holds no public key") as caught:
        load_public(pair.private)
    assert "belongs only where bundles are signed" in str(caught.value)
    with pytest.raises(KeyFileError, match="holds no private key"):
        load_private(pair.public)


@pytest.mark.parametrize("content", [b"", b"ssh-ed25519 AAAA", b"-----BEGIN PUBLIC KEY-----\nAAAA\n", bytes(20_000)])
def test_what_is_no_key(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key.pem").write_bytes(content)
    for load in (load_public, load_private):
        with pytest.raises(BundleError, match=r"key\.pem (holds no|has 20,000)"):
            load(tmp_path / "key.pem")


def test_keys_that_are_not_there(tmp_path: Path) -> None:
    for load in (load_public, load_private):
        with pytest.raises(KeyFileError, match="cannot be read"):
            load(tmp_path / "nowhere")


def test_keys_of_another_algorithm_and_with_a_password(tmp_path: Path) -> None:
    other = generate_private_key(SECP256R1())
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "ec.private").write_bytes(other.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    (tmp_path / "locked.private").write_bytes(Ed25519PrivateKey.generate().private_bytes(pem, pkcs8, locked))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "ec.public").write_bytes(other.public_key().public_bytes(pem, form))
    with pytest.raises(KeyFileError) as caught:
        load_private(tmp_path / "ec.private")
    assert "another algorithm" in str(caught.value)
    with pytest.raises(KeyFileError) as caught:
        load_private(tmp_path / "locked.private")
    assert "assword" in str(caught.value)
    with pytest.raises(KeyFileError) as caught:
        load_public(tmp_path / "ec.public")
    assert "another algorithm" in str(caught.value)
