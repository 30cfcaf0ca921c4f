"""What a store remembers, beside the story: clocks, damage, copies, stores of before, and everybody's directories."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest
from packed import make_bundle
from small_bundles import check_clean, make_version, pair, sha256

from edgeq.bundle.errors import (
    ExpiredError,
    KeyListError,
    ReleaseError,
    RevokedKeyError,
    SignatureError,
    UnknownKeyError,
    UnsignedError,
)
from edgeq.bundle.keys import KeyPair, load_public
from edgeq.bundle.release import Release, new_release
from edgeq.bundle.signature import sign_bundle
from edgeq.bundle.verify import examine
from edgeq.errors import ArtifactError, GateError, InputError
from edgeq.install import trust
from edgeq.install.history import read_history
from edgeq.install.listing import installed
from edgeq.install.run import install, rollback
from edgeq.install.states import current
from edgeq.install.store import Store
from edgeq.install.trust import read_memory, revoke_key, show_trust, trust_at


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def release(tmp_path: Path, ours: KeyPair) -> Callable[..., Path]:
    """Make a signed release; what is in it depends on its name."""

    def make(sequence: int, product: str = "inspector", *, name: str = "", key: KeyPair = ours, **more: str) -> Path:
        bundle = make_bundle(tmp_path / f"{product}{sequence}{name}{key.id}", {"a": f"{sequence}{name}".encode() * 9})
        made = Release(product=product, sequence=sequence, made=more.pop("made", "2026-01-01T00:00:00Z"), **more)
        sign_bundle(bundle, key.private, release=made)
        return bundle

    return make


def test_bundles_without_a_release_are_those_of_before(tmp_path: Path, root: Path) -> None:
    """Byte for byte, and they are installed, back and forth, with a word."""
    ids = [make_version(tmp_path / str(number), number) for number in range(2)]
    assert "sequence" not in (tmp_path / "0" / "manifest.json").read_text()
    for number in (0, 1, 0):
        done = install(tmp_path / str(number), root)
        assert done.sequence is None
        assert len(done.notes) == 1
        assert "says no product and sequence" in done.notes[0]
    assert pair(root) == (ids[0], ids[1])
    assert show_trust(root).keys == {}


def test_a_release_is_part_of_the_manifest_and_of_the_digest(release: Callable[..., Path], ours: KeyPair) -> None:
    bundle = release(7, expires="2099-01-01T00:00:00Z")
    told = json.loads((bundle / "manifest.json").read_text())
    assert [told[name] for name in ("product", "sequence", "made", "expires")] == [
        *("inspector", 7, "2026-01-01T00:00:00Z", "2099-01-01T00:00:00Z")
    ]
    assert examine(bundle, trust_at(bundle, bundle, [ours.public])).signed_by == ours.id
    del told["product"]
    (bundle / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(ArtifactError, match="is not a bundle") as caught:
        examine(bundle, trust_at(bundle, bundle, []))
    assert "come together" in str(caught.value)


NOW = datetime(2026, 11, 29, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("given", "expires"),
    [
        ("2027-06-30", "2027-07-01T00:00:00Z"),
        ("2027-06-30T12:30:00Z", "2027-06-30T12:30:00Z"),
        ("90d", "2027-02-27T12:00:00Z"),
        (None, None),
    ],
)
def test_a_release_of_now(given: str | None, expires: str | None) -> None:
    """1,795,953,600 seconds are 20,786 days and a half: from 1970 to 29 November 2026, noon."""
    made = new_release("inspector", None, given, now=NOW)
    assert (made.sequence, made.made, made.expires) == (1795953600, "2026-11-29T12:00:00Z", expires)
    assert made.sequence == 20786.5 * 86400


@pytest.mark.parametrize(
    ("product", "sequence", "expires"),
    [
        *(("", None, None), ("a b", None, None), ("../x", None, None), ("x" * 65, None, None), ("é", None, None)),
        *(("x", 0, None), ("x", 2**63, None), ("x", 1, "tomorrow"), ("x", 1, "2026-11-28"), ("x", 1, "0d")),
        *(("x", 1, "2027-6-31"), ("x", 1, "2027-06-30T12:00:00+01:00"), ("x", 1, "9" * 30 + "d")),
    ],
)
def test_what_is_no_release(product: str, sequence: int | None, expires: str | None) -> None:
    with pytest.raises(InputError):
        new_release(product, sequence, expires, now=NOW)


def test_the_same_number_twice(release: Callable[..., Path], root: Path, ours: KeyPair) -> None:
    """The same bundle again is nothing new; another one with its number could be either."""
    install(release(5), root, keys=[ours.public])
    install(release(5), root)
    with pytest.raises(ReleaseError, match="has the number of another bundle"):
        install(release(5, name="other"), root)


def test_products_are_counted_by_themselves(release: Callable[..., Path], root: Path, ours: KeyPair) -> None:
    install(release(5), root, keys=[ours.public])
    done = install(release(1, "lander"), root)
    assert done.notes == ("It is the first of the product lander; before: inspector.",)
    with pytest.raises(ReleaseError, match="release 4 of inspector is older than release 5"):
        install(release(4), root)
    assert install(release(6), root).notes == ()


def test_the_highest_number_of_a_stolen_key_does_not_count(
    release: Callable[..., Path], root: Path, ours: KeyPair, theirs: KeyPair
) -> None:
    install(release(5), root, keys=[ours.public, theirs.public])
    install(release(2**63 - 1, key=theirs), root)
    with pytest.raises(ReleaseError, match="is older than"):
        install(release(6), root)
    revoke_key(root, theirs.id, "stolen")
    install(release(6), root)
    with pytest.raises(RevokedKeyError, match="stolen"):
        rollback(root)
    with pytest.raises(ReleaseError):
        install(release(4), root)


def test_what_failed_its_check_is_not_the_highest(release: Callable[..., Path], root: Path, ours: KeyPair) -> None:
    def refuse(_version: Path) -> None:
        raise GateError("canary 0 has the cosine 0.1")

    install(release(5), root, keys=[ours.public])
    with pytest.raises(GateError):
        install(release(9), root, check=refuse)
    install(release(6), root)
    memory = read_memory(Store(root))
    assert [each.sequence for each in memory.highest] == [6]
    entries, damage = read_history(Store(root), memory.head)
    assert ([(it.did, it.sequence) for it in entries], damage) == (
        [("install", 5), ("install", 9), ("failed", 9), ("install", 6)],
        "",
    )


def test_keys_of_a_bundle_that_was_refused_are_not_remembered(
    release: Callable[..., Path], root: Path, ours: KeyPair, theirs: KeyPair
) -> None:
    install(release(5), root, keys=[ours.public])
    with pytest.raises(ReleaseError):
        install(release(4), root, keys=[ours.public, theirs.public])
    with pytest.raises(UnknownKeyError):
        install(release(6, key=theirs), root)
    assert [*show_trust(root).keys] == [ours.id]


class _Clock(datetime):
    """The clock of a device that says what it likes."""

    says = NOW

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]  # noqa: ARG003
        return cls.says


def test_a_clock_that_jumps(
    release: Callable[..., Path], root: Path, ours: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back to 1970 it brings nothing to life that a signed bundle shows to be over, and order needs no clock."""
    monkeypatch.setattr(trust, "datetime", _Clock)
    _Clock.says = datetime(1970, 1, 1, tzinfo=timezone.utc)
    install(release(5, made="2026-06-01T00:00:00Z", expires="2027-01-01T00:00:00Z"), root, keys=[ours.public])
    over = release(7, made="2026-05-01T00:00:00Z", expires="2026-05-31T00:00:00Z")
    with pytest.raises(ExpiredError, match="release 7 of inspector expired at 2026-05-31"):
        install(over, root)
    with pytest.raises(ReleaseError, match="is older"):
        install(release(4, made="2026-12-01T00:00:00Z"), root)
    _Clock.says = datetime(2099, 1, 1, tzinfo=timezone.utc)  # forward it stops what expires, until it is set
    with pytest.raises(ExpiredError):
        install(release(8, expires="2027-01-01T00:00:00Z"), root)
    _Clock.says = NOW
    assert install(release(8, expires="2027-01-01T00:00:00Z"), root).sequence == 8
    done = install(over, root, because="the newer ones do not fit")
    assert "expired" in done.notes[0]
    assert examine(current(root), trust_at(root, current(root), [])).signed_by == ours.id  # what is in use goes on


def test_a_laptop_clock_of_2099_is_forgotten_with_its_key(
    release: Callable[..., Path], root: Path, ours: KeyPair, theirs: KeyPair
) -> None:
    install(release(1), root, keys=[ours.public, theirs.public])
    install(release(2, key=theirs, made="2099-01-01T00:00:00Z"), root)
    soon = release(3, expires="2098-01-01T00:00:00Z")
    with pytest.raises(ExpiredError):
        install(soon, root)
    revoke_key(root, theirs.id, "its clock was wrong")
    install(soon, root)


def test_a_checked_signature_is_not_replaced_by_one_that_was_not(
    tmp_path: Path, root: Path, ours: KeyPair, theirs: KeyPair
) -> None:
    """Of the same bundle, so that the version is the same: with a foreign signature, and with none."""
    bundle = make_bundle(tmp_path / "bundle", {"a": b"a" * 99})
    sign_bundle(bundle, ours.private)
    install(bundle, root, keys=[ours.public])
    seal = sha256(root / "current" / "manifest.sig")
    foreign, bare = tmp_path / "foreign", tmp_path / "bare"
    shutil.copytree(bundle, foreign)
    sign_bundle(foreign, theirs.private)
    shutil.copytree(bundle, bare)
    (bare / "manifest.sig").unlink()
    with pytest.raises(UnknownKeyError):
        install(foreign, root)
    with pytest.raises(UnsignedError):
        install(bare, root)
    install(bare, root, because="the signature was lost")
    assert sha256(root / "current" / "manifest.sig") == seal
    (root / "trust.json").unlink()
    (root / "history.jsonl").unlink()  # a store of before, which knows of the signature by its record alone
    with pytest.raises(UnknownKeyError, match="no key was given"):
        install(foreign, root)
    install(foreign, root, because="the key was lost")
    assert sha256(root / "current" / "manifest.sig") == seal
    assert installed(root)[0].signed_by == ours.id
    examine(current(root), trust_at(root, current(root), [ours.public]))
    check_clean(root)


def test_a_store_of_before_goes_on(release: Callable[..., Path], root: Path, ours: KeyPair) -> None:
    """It remembers no key: what is in it is used and rolled back to as ever; an unsigned one needs a word."""
    for number in (1, 2):
        install(release(number), root, keys=[ours.public])
    for name in ("trust.json", "history.jsonl"):
        (root / name).unlink()
    assert examine(current(root), trust_at(root, current(root), [])).signed_by is None
    rollback(root)
    install(release(3), root, keys=[ours.public])
    assert [*show_trust(root).keys] == [ours.id]


def test_an_unsigned_one_that_was_allowed_is_used(tmp_path: Path, root: Path, release: Callable[..., Path]) -> None:
    (tmp_path / "keys").mkdir()
    plain = make_bundle(tmp_path / "plain", {"a": b"plain"})
    from edgeq.bundle.keys import make_keys

    key = make_keys(tmp_path / "keys" / "mine")
    install(plain, root)
    install(release(1, key=key), root, keys=[key.public])
    with pytest.raises(UnsignedError, match="is not signed, and others"):
        rollback(root)
    rollback(root, because="1 is blind")
    assert current(root).name == sha256(plain / "manifest.json")
    assert examine(current(root), trust_at(root, current(root), [])).signed_by is None
    with pytest.raises(SignatureError):
        examine(current(root), trust_at(root, current(root), [key.public]))


@pytest.mark.parametrize("lost", ["removed", "damaged", "another"])
def test_a_memory_that_was_tampered_with(release: Callable[..., Path], root: Path, ours: KeyPair, lost: str) -> None:
    install(release(5), root, keys=[ours.public])
    path = root / "trust.json"
    content = {"damaged": b"{", "another": b'{"version": "edgeq.trust/2"}'}
    path.unlink()
    if lost in content:
        path.write_bytes(content[lost])
    for act in (
        lambda: install(release(6), root),
        lambda: trust_at(root, current(root), []),
        lambda: show_trust(root),
        lambda: revoke_key(root, ours.id, "x"),
    ):
        with pytest.raises(ArtifactError, match=r"trust\.json"):
            act()


def test_a_history_that_was_cut_is_told_at_the_next_install(
    release: Callable[..., Path], root: Path, ours: KeyPair
) -> None:
    for number in (1, 2):
        install(release(number), root, keys=[ours.public])
    lines = (root / "history.jsonl").read_bytes().splitlines(keepends=True)
    (root / "history.jsonl").write_bytes(lines[0])
    assert "there are 1 lines, and there were 2" in install(release(3), root).notes[0]


def test_half_a_line_of_a_power_cut_is_no_damage(release: Callable[..., Path], root: Path, ours: KeyPair) -> None:
    install(release(1), root, keys=[ours.public])
    with (root / "history.jsonl").open("ab") as file:
        file.write(b'{"version":"edgeq.hist')
    assert install(release(2), root).notes == ()
    entries, damage = read_history(Store(root), read_memory(Store(root)).head)
    assert ([entry.sequence for entry in entries], damage) == ([1, 2], "")


@pytest.mark.parametrize(
    "name", ["", "versions", "states", "records", "objects", "staging", "trust.json", "store.json"]
)
def test_a_store_that_everybody_may_write_to(
    release: Callable[..., Path], root: Path, ours: KeyPair, name: str
) -> None:
    install(release(1), root, keys=[ours.public])
    (root / name).chmod(0o777)
    for act in (lambda: install(release(2), root), lambda: rollback(root), lambda: revoke_key(root, ours.id, "x")):
        with pytest.raises(ArtifactError, match="everybody may write to"):
            act()
    (root / name).chmod(0o755)
    install(release(2), root)


def test_whatever_the_umask_is(release: Callable[..., Path], root: Path, ours: KeyPair) -> None:
    before = os.umask(0)
    try:
        install(release(1), root, keys=[ours.public])
        install(release(2), root)
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert [path for path in (root, *root.rglob("*")) if not path.is_symlink() and path.stat().st_mode & 0o002] == []


def test_a_damaged_list_of_keys_trusts_nobody(release: Callable[..., Path], root: Path, ours: KeyPair) -> None:
    install(release(1), root, keys=[ours.public])
    (root / "keys.json").write_bytes(b"{}")
    with pytest.raises(KeyListError):
        install(release(2), root)
    with pytest.raises(KeyListError):
        trust_at(root, current(root), [])


def test_keys_that_are_given_narrow_nothing_without_a_list(
    release: Callable[..., Path], root: Path, ours: KeyPair, theirs: KeyPair
) -> None:
    """Anyone who may run install says whom to trust; a list of keys is what takes that from him."""
    install(release(1), root, keys=[ours.public])
    install(release(2, key=theirs), root, keys=[theirs.public])
    assert {*show_trust(root).keys} == {ours.id, theirs.id}
    assert load_public(theirs.public).id == theirs.id
