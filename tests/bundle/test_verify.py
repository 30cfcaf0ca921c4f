"""The verification: its order, its signature, its device."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from packed import CONTENTS, make_bundle, rewrite

from edgeq.bundle.contents import MANIFEST, SIGNATURE
from edgeq.bundle.errors import (
    BundleError,
    DeviceError,
    DigestError,
    KeyFileError,
    LengthError,
    ManifestError,
    MissingFileError,
    SignatureError,
    UnknownKeyError,
    UnsignedError,
)
from edgeq.bundle.keys import KeyPair, load_private
from edgeq.bundle.limits import DEFAULT_LIMITS
from edgeq.bundle.needs import DeviceFacts
from edgeq.bundle.signature import sign_bundle
from edgeq.bundle.verification_states import list_files
from edgeq.bundle.verify import Trust, examine, verify_bundle

ORIN = DeviceFacts(memory_bytes=16_000_000_000, compute_capability="8.7", tensorrt="10.3.0", edgeq="0.1.0")


@pytest.fixture
def signed(orin_bundle: Path, ours: KeyPair) -> Path:
    sign_bundle(orin_bundle, ours.private)
    return orin_bundle


def test_a_signed_bundle_passes(signed: Path, ours: KeyPair, theirs: KeyPair) -> None:
    for keys in ([ours.public], [theirs.public, ours.public]):
        found = examine(signed, Trust.of(keys, device=ORIN))
        assert found.signed_by == ours.id
        assert found.raw == (signed / MANIFEST).read_bytes()
        assert [file.name for file in found.manifest.files] == list(CONTENTS)


def test_without_keys_the_signature_is_not_looked_at(signed: Path) -> None:
    (signed / SIGNATURE).write_bytes(b"none")
    assert examine(signed, Trust()).signed_by is None


def test_the_same_key_and_manifest_give_the_same_signature(signed: Path, ours: KeyPair) -> None:
    before = (signed / SIGNATURE).read_bytes()
    assert sign_bundle(signed, ours.private) == signed / SIGNATURE
    assert (signed / SIGNATURE).read_bytes() == before


def test_the_signature_covers_the_manifest_behind_a_prefix(signed: Path, ours: KeyPair) -> None:
    """A signature of the bare manifest could have been made for something else."""
    told = json.loads((signed / SIGNATURE).read_text())
    key, manifest = load_private(ours.private), (signed / MANIFEST).read_bytes()
    assert base64.b64decode(told["signature"]) == key.sign(b"edgeq.bundle/1 manifest\0" + manifest)
    told["signature"] = base64.b64encode(key.sign(manifest)).decode()
    (signed / SIGNATURE).write_text(json.dumps(told))
    with pytest.raises(SignatureError, match="not that of its manifest"):
        verify_bundle(signed, keys=[ours.public])


def test_another_key(signed: Path, ours: KeyPair, theirs: KeyPair) -> None:
    with pytest.raises(UnknownKeyError, match=f"was signed with the key {ours.id}") as caught:
        verify_bundle(signed, keys=[theirs.public])
    assert theirs.id in str(caught.value)


def test_another_key_under_the_name_of_ours(orin_bundle: Path, ours: KeyPair, theirs: KeyPair) -> None:
    sign_bundle(orin_bundle, theirs.private)
    text = (orin_bundle / SIGNATURE).read_text()
    (orin_bundle / SIGNATURE).write_text(text.replace(theirs.id, ours.id))
    with pytest.raises(SignatureError, match="not that of its manifest"):
        verify_bundle(orin_bundle, keys=[ours.public])


def test_the_signature_of_another_bundle(signed: Path, tmp_path: Path, ours: KeyPair) -> None:
    other = make_bundle(tmp_path / "other", {**CONTENTS, "further": b""})
    (other / SIGNATURE).write_bytes((signed / SIGNATURE).read_bytes())
    with pytest.raises(SignatureError, match="not that of its manifest"):
        verify_bundle(other, keys=[ours.public])


def test_no_signature(orin_bundle: Path, ours: KeyPair) -> None:
    with pytest.raises(UnsignedError, match="is not signed"):
        verify_bundle(orin_bundle, keys=[ours.public])
    with pytest.raises(UnsignedError, match="is not signed"):
        verify_bundle(orin_bundle, require_signature=True)
    verify_bundle(orin_bundle, keys=[ours.public], require_signature=False)


def test_a_required_signature_and_no_key(signed: Path) -> None:
    with pytest.raises(UnknownKeyError, match="no key was given"):
        verify_bundle(signed, require_signature=True)


def test_a_signature_that_is_not_required_must_still_be_right(signed: Path, theirs: KeyPair) -> None:
    with pytest.raises(UnknownKeyError):
        verify_bundle(signed, keys=[theirs.public], require_signature=False)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"\xff", b"[" * 4000),
        b'{"version": "edgeq.signature/2", "key": "0000000000000000", "signature": ""}',
        b'{"version": "edgeq.signature/1", "key": "0000000000000000", "signature": "AAAA"}',
    ],
)
def test_what_is_no_signature(signed: Path, ours: KeyPair, content: bytes) -> None:
    (signed / SIGNATURE).write_bytes(content)
    with pytest.raises(SignatureError, match="is no signature"):
        verify_bundle(signed, keys=[ours.public])


def test_a_signature_that_is_too_long_is_not_read(signed: Path) -> None:
    with (signed / SIGNATURE).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LengthError, match=r"manifest\.sig has"):
        verify_bundle(signed)


def test_a_key_that_is_none(signed: Path, ours: KeyPair) -> None:
    with pytest.raises(KeyFileError, match="holds no public key"):
        verify_bundle(signed, keys=[ours.public, ours.private])


def test_another_device(signed: Path) -> None:
    with pytest.raises(DeviceError, match="is not for this device") as caught:
        verify_bundle(signed, device=DeviceFacts(compute_capability="7.2"))
    assert "compute capability 8.7, there is 7.2" in str(caught.value)
    verify_bundle(signed, device=None)


def test_a_damaged_bundle_is_not_signed(orin_bundle: Path, ours: KeyPair) -> None:
    (orin_bundle / "empty").write_bytes(b"x")
    with pytest.raises(LengthError):
        sign_bundle(orin_bundle, ours.private)
    assert not (orin_bundle / SIGNATURE).exists()


def _break_form(bundle: Path) -> None:
    (bundle / MANIFEST).write_bytes(b"{")


def _break_length(bundle: Path) -> None:
    (bundle / "plan.yaml").write_bytes(b"x")


def _break_digest(bundle: Path) -> None:
    """The first file by name, so that it would be found before the others if nothing else were checked first."""
    content = CONTENTS["language/model.safetensors"]
    (bundle / "language" / "model.safetensors").write_bytes(content[::-1])


def _break_signature(bundle: Path) -> None:
    (bundle / SIGNATURE).write_bytes(b"none")


FAULTS: list[tuple[Callable[[Path], None], type[BundleError]]] = [
    (_break_form, ManifestError),
    (_break_length, LengthError),
    (_break_digest, DigestError),
    (_break_signature, SignatureError),
]


@pytest.mark.parametrize("first", range(len(FAULTS) + 1))
def test_the_first_fault_in_order_is_told(signed: Path, ours: KeyPair, first: int) -> None:
    """Length, digest, signature, device: with this fault and all that come later, this one is told."""
    for fault, _ in reversed(FAULTS[first:]):
        fault(signed)
    expected = FAULTS[first][1] if first < len(FAULTS) else DeviceError
    with pytest.raises(expected):
        verify_bundle(signed, keys=[ours.public], device=DeviceFacts())


def test_a_state_lets_nothing_be_left_out(orin_bundle: Path) -> None:
    """Whoever drives the machine and forgets a file gets no further."""
    listed = list_files((orin_bundle / MANIFEST).read_bytes(), "bundle", DEFAULT_LIMITS)
    sizes = [(name, len(content)) for name, content in CONTENTS.items()]
    files = list(listed.sized(sizes))
    with pytest.raises(MissingFileError, match=r"lacks its file 'plan\.yaml'"):
        list(listed.sized(sizes[:-1]))
    with pytest.raises(MissingFileError, match="lacks its file 'empty'"):
        listed.digested((file, file.sha256) for file in files[1:])
    listed.digested((file, file.sha256) for file in files)


def test_nothing_is_hashed_before_every_length_is_right(orin_bundle: Path) -> None:
    _break_length(orin_bundle)
    reported: list[tuple[int, int]] = []
    with pytest.raises(LengthError):
        verify_bundle(orin_bundle, report=lambda done, total: reported.append((done, total)))
    assert reported == []


def test_progress_ends_at_the_total(orin_bundle: Path) -> None:
    reported: list[tuple[int, int]] = []
    manifest = verify_bundle(orin_bundle, report=lambda done, total: reported.append((done, total)))
    total = sum(len(content) for content in CONTENTS.values())
    assert manifest.total_bytes == total
    assert reported[-1] == (total, total)
    assert [done for done, _ in reported] == sorted(done for done, _ in reported)


def test_a_changed_manifest_is_no_longer_signed(signed: Path, ours: KeyPair) -> None:
    rewrite(signed, lambda content: content.update(needs={}))
    with pytest.raises(SignatureError, match="not that of its manifest"):
        verify_bundle(signed, keys=[ours.public])
