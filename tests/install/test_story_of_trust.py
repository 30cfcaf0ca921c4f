"""A product's life on one device, on the command line: keys come and go, old bundles come back, and are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command import Edgeq, Outcome, assert_refused
from packed import make_bundle
from small_bundles import pair, sha256

Release = Callable[[int, str], Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def keys(edgeq: Edgeq, tmp_path: Path) -> dict[str, str]:
    """Key pairs of root keys and of keys that sign bundles, by name, with their ids; the files are in tmp_path."""
    return {
        name: json.loads(edgeq("keygen", tmp_path / name, "--json").out)["id"]
        for name in ("root1", "root2", "root3", "old", "new", "thief")
    }


@pytest.fixture
def release(edgeq: Edgeq, tmp_path: Path, keys: dict[str, str]) -> Release:
    """Make a release of the product `inspector`, signed with a key."""
    assert keys

    def make(sequence: int, key: str) -> Path:
        bundle = make_bundle(tmp_path / f"{key}{sequence}", {"model.onnx": b"%d" % sequence * 50})
        arguments = ("--product", "inspector", "--sequence", str(sequence))
        done = edgeq("sign", bundle, "--key", tmp_path / f"{key}.private.pem", *arguments)
        assert done.status == 0, done.err
        assert f"release {sequence} of inspector" in done.out
        file = tmp_path / f"{key}{sequence}.edgeq.tar"
        assert edgeq("bundle", "pack", bundle, "-o", file).status == 0
        return file

    return make


def identity(bundle: Path) -> str:
    """Of the release that a file was packed of."""
    return sha256(bundle.with_name(bundle.name.removesuffix(".edgeq.tar")) / "manifest.json")


def test_the_story(edgeq: Edgeq, tmp_path: Path, root: Path, keys: dict[str, str], release: Release) -> None:
    public = {name: tmp_path / f"{name}.public.pem" for name in keys}

    def install(bundle: Path, *flags: str | Path) -> Outcome:
        return edgeq("install", bundle, "--root", root, "--no-check", *flags)

    # The first one brings the key; the second needs to name none.
    first, second = release(1, "old"), release(2, "old")
    done = install(first, "--key", public["old"])
    assert done.status == 0, done.err
    assert "release 1 of inspector" in done.out
    done = install(second)
    assert done.status == 0, done.err
    assert keys["old"] in done.out
    assert pair(root) == (identity(second), identity(first))

    # What is older, unsigned, or somebody else's, is refused, and nothing is switched.
    stripped = tmp_path / "stripped"
    shutil.copytree(tmp_path / "old2", stripped)
    (stripped / "manifest.sig").unlink()
    before = make_bundle(tmp_path / "before", {"model.onnx": b"from before releases had numbers"})
    assert edgeq("sign", before, "--key", tmp_path / "old.private.pem").status == 0
    assert_refused(install(first), "release 1 of inspector is older than release 2", "--allow-older --because")
    assert_refused(install(first, "--key", public["old"]), "is older than release 2")
    assert_refused(install(stripped), "is not signed", "--allow-older --because")
    assert_refused(install(make_bundle(tmp_path / "plain", {"a": b"a"})), "is not signed")
    assert_refused(install(before), "says no product and sequence", "inspector 2")
    assert_refused(install(release(9, "thief")), f"signed with the key {keys['thief']}")
    assert_refused(install(first, "--allow-older"), "--because")
    assert_refused(install(first, "--because", "no flag"), "--allow-older")
    assert pair(root) == (identity(second), identity(first))

    # A list of keys: two of three root keys say that a new key counts beside the old one.
    def trust_list(number: int, *flags: str | Path, signers: tuple[str, ...]) -> Path:
        made = tmp_path / f"keys{number}.json"
        assert edgeq("trust", "make", "-o", made, *flags).status == 0
        for name in signers:
            assert edgeq("trust", "sign", made, "--key", tmp_path / f"{name}.private.pem").status == 0
        return made

    roots = [flag for name in ("root1", "root2", "root3") for flag in ("--root-key", public[name])]
    both = ("--key", public["old"], "--key", public["new"])
    one = trust_list(1, *roots, "--threshold", "2", *both, signers=("root1",))
    set_list = ("trust", "set")
    assert_refused(edgeq(*set_list, one, "--root", root), "knows no list of keys yet", "--root-key")
    assert_refused(edgeq(*set_list, one, "--root", root, *roots), "was signed by 1 of", "expected: 2 of")
    assert edgeq("trust", "sign", one, "--key", tmp_path / "thief.private.pem").status == 0
    assert_refused(edgeq(*set_list, one, "--root", root, *roots), "was signed by 1 of")
    assert edgeq("trust", "sign", one, "--key", tmp_path / "root2.private.pem").status == 0
    assert_refused(edgeq(*set_list, one, "--root", root, "--root-key", public["root1"]), "was signed by 1 of")
    assert edgeq(*set_list, one, "--root", root, *roots).status == 0
    third = release(3, "new")
    assert install(third).status == 0
    assert pair(root) == (identity(third), identity(second))
    assert_refused(install(release(4, "thief"), "--key", public["thief"]), "is not on the list of keys")

    # The old key is stolen and revoked: what it signed is neither installed nor gone back to, whatever its number.
    stolen = ("--from", one, "--revoke", keys["old"], "--because", "the laptop was stolen")
    two = trust_list(2, *stolen, signers=("root2", "root3"))
    assert edgeq(*set_list, two, "--root", root).status == 0
    assert_refused(edgeq(*set_list, one, "--root", root), "is list 1, and list 2 is known")
    assert_refused(install(release(2**40, "old")), "is revoked: the laptop was stolen")
    assert_refused(install(second, "--allow-older", "--because", "it worked"), "is revoked")
    assert_refused(install(second, "--key", public["old"]), "is revoked")
    assert_refused(edgeq("rollback", "--root", root), f"signed with the key {keys['old']}, which is revoked")
    assert_refused(edgeq("rollback", "--root", root, "--allow-older", "--because", "I must"), "is revoked")
    assert_refused(edgeq("serve", root / "versions" / identity(second), "--port", "0"), "is revoked", status=78)
    assert pair(root) == (identity(third), identity(second))

    # Recovery: a newer one is installed, and then there is something to go back to.
    fourth = release(4, "new")
    assert install(fourth).status == 0
    assert edgeq("rollback", "--root", root).status == 0
    assert pair(root) == (identity(third), identity(fourth))
    assert install(fourth).status == 0
    assert_refused(install(third), "is older than release 4")
    done = install(third, "--allow-older", "--because", "4 is slower")
    assert done.status == 0, done.err

    # Root keys are replaced, too: by those before and by the new ones, together.
    fewer = ("--from", two, "--revoke", keys["root1"], "--because", "its owner left", "--threshold", "2")
    three = trust_list(3, *fewer, signers=("root2", "root3"))
    assert edgeq(*set_list, three, "--root", root).status == 0
    four = trust_list(4, "--from", three, "--key", public["thief"], signers=("root1", "root2"))
    assert_refused(edgeq(*set_list, four, "--root", root), "was signed by 1 of the root keys known so far")

    # All of it can be read afterwards.
    shown = json.loads(edgeq("trust", "show", "--root", root, "--json").out)
    assert [*shown["keys"]] == [keys["new"]]
    assert shown["revoked"] == {keys["old"]: "the laptop was stolen", keys["root1"]: "its owner left"}
    assert (shown["list"], shown["threshold"], [*shown["roots"]]) == (3, 2, [keys["root2"], keys["root3"]])
    assert {(it["key"], it["sequence"]) for it in shown["highest"]} == {(keys["old"], 2), (keys["new"], 4)}
    log = json.loads(edgeq("trust", "log", "--root", root, "--json").out)
    assert log["damage"] == ""
    told = [(entry["did"], entry["sequence"], entry["signed_by"], entry["because"]) for entry in log["entries"]]
    assert told == [
        ("install", 1, keys["old"], ""),
        ("install", 2, keys["old"], ""),
        ("keys", None, None, ""),
        ("install", 3, keys["new"], ""),
        ("keys", None, None, ""),
        ("install", 4, keys["new"], ""),
        ("rollback", 3, keys["new"], ""),
        ("install", 4, keys["new"], ""),
        ("install", 3, keys["new"], "4 is slower"),
        ("keys", None, None, ""),
    ]
    history = root / "history.jsonl"
    lines = history.read_bytes().splitlines(keepends=True)
    for changed in (
        [*lines[:3], lines[3].replace(b'"sequence":3', b'"sequence":8'), *lines[4:]],
        [*lines[:3], *lines[4:]],
        [*lines[:3], lines[4], lines[3], *lines[5:]],
        lines[:-1],
        [],
    ):
        assert changed != lines
        history.write_bytes(b"".join(changed))
        done = edgeq("trust", "log", "--root", root)
        assert done.status == 1
        assert f"the history of {root} is damaged" in done.err
