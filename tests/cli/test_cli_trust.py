"""`edgeq trust` and `edgeq sign --product`: what is printed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Edgeq, assert_refused
from packed import make_bundle

from edgeq.bundle.keys import KeyPair


@pytest.fixture
def root(edgeq: Edgeq, tmp_path: Path, ours: KeyPair) -> Path:
    """A store with release 3 of the product inspector."""
    bundle = make_bundle(tmp_path / "bundle", {"a": b"a" * 99})
    flags = ("--product", "inspector", "--sequence", "3", "--expires", "2099-12-31")
    done = edgeq("sign", bundle, "--key", ours.private, *flags, "--json")
    assert json.loads(done.out)["sequence"] == 3
    assert edgeq("install", bundle, "--root", tmp_path / "root", "--key", ours.public, "--no-check").status == 0
    return tmp_path / "root"


def test_a_signed_bundle_tells_its_release(edgeq: Edgeq, tmp_path: Path, root: Path, ours: KeyPair) -> None:
    assert root.is_dir()
    bundle = tmp_path / "bundle"
    done = edgeq("verify", bundle, "--key", ours.public)
    assert "release 3 of inspector" in done.out
    assert "before 2100-01-01T00:00:00Z" in done.out
    told = json.loads(edgeq("verify", bundle, "--json").out)
    assert (told["product"], told["sequence"], told["expires"]) == ("inspector", 3, "2100-01-01T00:00:00Z")
    again = edgeq("sign", bundle, "--key", ours.private)  # leaves the release as it is
    assert "release 3 of inspector" in again.out
    higher = edgeq("sign", bundle, "--key", ours.private, "--sequence", "4")
    assert "release 4 of inspector" in higher.out
    assert edgeq("list", "--root", root).out.count("inspector 3") == 1


def test_a_bundle_without_a_product_is_signed_with_a_word(edgeq: Edgeq, tmp_path: Path, ours: KeyPair) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"a": b"a"})
    before = (bundle / "manifest.json").read_bytes()
    done = edgeq("sign", bundle, "--key", ours.private)
    assert done.status == 0
    assert "--product NAME mends that" in done.err
    assert (bundle / "manifest.json").read_bytes() == before
    assert_refused(edgeq("sign", bundle, "--key", ours.private, "--sequence", "4"), "--product NAME")
    assert_refused(edgeq("sign", bundle, "--key", ours.private, "--product", "a/b"), "is no release")
    assert_refused(edgeq("sign", bundle, "--key", ours.private, "--product", "a", "--expires", "soon"), "is no moment")


def test_show_and_revoke(edgeq: Edgeq, root: Path, ours: KeyPair) -> None:
    done = edgeq("trust", "show", "--root", root)
    assert done.status == 0
    assert "the keys that were given count" in done.out
    assert ours.id in done.out
    assert_refused(edgeq("trust", "revoke", "no id", "--root", root, "--because", "x"), "16 hexadecimal digits")
    assert_refused(edgeq("trust", "revoke", ours.id, "--root", root, "--because", "\x1b[2J"), "cannot be revoked")
    assert_refused(edgeq("rollback", "--root", root, "--allow-older", "--because", "\x1b[2J"), "--because TEXT")
    done = edgeq("trust", "revoke", ours.id, "--root", root, "--because", "[bold]lost")
    assert f"{ours.id} is revoked" in done.out
    assert "The version in use is refused from now on" in done.err
    shown = edgeq("trust", "show", "--root", root)
    assert "[bold]lost" in shown.out
    assert "signs bundles" not in shown.out
    done = edgeq("serve", root, "--port", "0")
    assert_refused(done, f"signed with the key {ours.id}, which is revoked: [bold]lost", status=78)
    assert_refused(edgeq("rollback", "--root", root), "no previous version")
    log = edgeq("trust", "log", "--root", root)
    assert log.status == 0
    for word in ("install", "revoke", "inspector 3"):
        assert word in log.out


def test_a_store_that_trusts_everybody_says_so(edgeq: Edgeq, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"a": b"a"})
    assert_refused(edgeq("trust", "show", "--root", tmp_path / "none"), "nothing is installed")
    done = edgeq("install", bundle, "--root", tmp_path / "root", "--no-check")
    assert "says no product and sequence" in done.err
    assert "trusts everybody" in edgeq("trust", "show", "--root", tmp_path / "root").out


def test_what_cannot_be_made_signed_or_set(edgeq: Edgeq, tmp_path: Path, root: Path, ours: KeyPair) -> None:
    keys = tmp_path / "keys.json"
    made = ("trust", "make", "-o", keys)
    assert_refused(edgeq(*made), "these keys are no list")
    assert_refused(edgeq(*made, "--root-key", ours.public, "--threshold", "2"), "2 root keys must sign")
    assert_refused(edgeq(*made, "--root-key", ours.private), "holds no public key")
    assert_refused(edgeq(*made, "--root-key", ours.public, "--revoke", ours.id), "--because")
    assert_refused(edgeq(*made, "--root-key", ours.public, "--revoke", "x", "--because", "y"), "16 hexadecimal digits")
    assert_refused(edgeq(*made, "--from", tmp_path / "nothing"), "is no list of keys")
    assert not keys.exists()
    assert edgeq(*made, "--root-key", ours.public, "--key", ours.public).status == 0
    assert_refused(edgeq(*made, "--root-key", ours.public), "exists already")
    assert_refused(edgeq("trust", "sign", keys, "--key", ours.public), "holds no private key")
    assert_refused(edgeq("trust", "set", keys, "--root", root, "--root-key", ours.public), "was signed by 0 of")
    assert not (root / "keys.json").exists()
    assert edgeq("trust", "sign", keys, "--key", ours.private).status == 0
    assert edgeq("trust", "set", keys, "--root", root, "--root-key", ours.public).status == 0
    assert "list 1 says which keys count" in edgeq("trust", "show", "--root", root).out
    again = edgeq("trust", "set", keys, "--root", root)  # the same
    assert (again.status, again.err) == (0, "")
    assert json.loads(edgeq("trust", "log", "--root", root, "--json").out)["entries"][-1]["did"] == "keys"
