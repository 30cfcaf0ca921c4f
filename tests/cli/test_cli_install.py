"""`edgeq install`, `rollback`, `list`, `prune`: exit status, what is printed, JSON, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from classifier_bundle import classifier_bundle
from command import Edgeq, assert_refused
from onnx import numpy_helper
from packed import make_bundle

from edgeq.bundle.keys import KeyPair, make_keys
from edgeq.bundle.manifest import write_manifest
from edgeq.bundle.needs import DeviceNeeds
from edgeq.bundle.signature import sign_bundle
from edgeq.bundle.transport import pack
from edgeq.files import sha256_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def small(tmp_path: Path) -> list[Path]:
    """Three bundles without canaries."""
    return [make_bundle(tmp_path / f"small{number}", {"a": bytes([number]) * 500}) for number in range(3)]


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    return make_keys(tmp_path / "key")


def short(bundle: Path) -> str:
    return sha256_file(bundle / "manifest.json")[:12]


def opposite(bundle: Path, target: Path) -> Path:
    """The same bundle with a graph that says the opposite, and a manifest that fits."""
    shutil.copytree(bundle, target)
    model = onnx.load(target / "model.fp32.onnx")
    for tensor in model.graph.initializer:
        if tensor.name in ("head.weight", "head.bias"):
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, target / "model.int8.ort.onnx")
    (target / "manifest.json").unlink()
    write_manifest(target, labels=("blue", "green", "red"))
    return target


def test_a_bundle_that_passes_and_one_that_does_not(
    edgeq: Edgeq, tmp_path: Path, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    good = classifier_bundle(tmp_path_factory)
    pack(good, tmp_path / "good.edgeq.tar")
    done = edgeq("install", tmp_path / "good.edgeq.tar", "--root", root, "--threads", "1")
    assert done.status == 0, done.err
    assert f"Version {short(good)} is in use; its canaries passed." in done.out
    assert "not checked: no key was given" in done.out
    assert "none before it" in done.out
    bad = opposite(good, tmp_path / "bad")
    done = edgeq("install", bad, "--root", root, "--threads", "1")
    assert (done.status, done.out) == (1, "")
    assert f"version {short(bad)} failed its check" in done.err
    assert "canar" in done.err
    assert f"{short(good)} is in use again" in done.err
    listed = edgeq("list", "--root", root)
    assert listed.status == 0
    assert f"{short(bad)}: the engine does not compute what the workshop saw" in listed.out
    for word in (short(bad), "failed", short(good), "current", "good.edgeq.tar"):
        assert word in listed.out
    assert (root / "current").resolve().name == sha256_file(good / "manifest.json")


def test_the_whole_way_in_json(edgeq: Edgeq, small: list[Path], root: Path, keys: KeyPair) -> None:
    ids = []
    for bundle in small:
        sign_bundle(bundle, keys.private)
        done = edgeq("install", bundle, "--root", root, "--key", keys.public, "--no-check", "--json")
        assert done.status == 0, done.err
        ids.append(json.loads(done.out)["id"])
    answer = json.loads(done.out)
    assert answer["version"] == "edgeq.install/1"
    assert (answer["previous"], answer["signed_by"], answer["checked"]) == (ids[1], keys.id, False)
    assert answer["path"] == str(root / "versions" / ids[2])
    switched = json.loads(edgeq("rollback", "--root", root, "--json").out)
    assert switched == {"version": "edgeq.rollback/1", "current": ids[1], "previous": ids[2]}
    listed = json.loads(edgeq("list", "--root", root, "--check", "--json").out)
    assert listed["version"] == "edgeq.installed-versions/1"
    assert [(one["id"], one["use"], one["damage"]) for one in listed["versions"]] == [
        (ids[2], "previous", ""),
        (ids[1], "current", ""),
        (ids[0], "kept", ""),
    ]
    pruned = json.loads(edgeq("prune", "--keep", "0", "--root", root, "--json").out)
    assert (pruned["version"], pruned["removed"]) == ("edgeq.prune/1", [ids[0]])


def test_the_whole_way_for_people(edgeq: Edgeq, small: list[Path], root: Path) -> None:
    for bundle in small:
        done = edgeq("install", bundle, "--root", root, "--no-check")
    assert "its canaries were not looked at" in done.out
    assert f"edgeq rollback brings back {short(small[1])}." in done.out
    assert f"Version {short(small[1])} is in use." in edgeq("rollback", "--root", root).out
    assert f"Removed {short(small[0])};" in edgeq("prune", "--keep", "1", "--root", root).out
    assert edgeq("prune", "--keep", "1", "--root", root).out == "Nothing to do.\n"


def test_without_a_key_it_is_said_that_nobody_was_asked(
    edgeq: Edgeq, small: list[Path], root: Path, keys: KeyPair
) -> None:
    """Signed or not: a signature that is not checked says nothing. With the key nothing is to be said."""
    sign_bundle(small[1], keys.private)
    for bundle, flags in ((small[0], ()), (small[1], ("--json",))):
        done = edgeq("install", bundle, "--root", root, "--no-check", *flags)
        assert done.status == 0, done.err
        told = " ".join(done.err.split())
        assert "warning: nobody's signature was checked" in told
        assert "edgeq sign" in told
        assert "--key NAME.public.pem" in told
    assert json.loads(done.out)["signed_by"] is None
    sign_bundle(small[2], keys.private)
    done = edgeq("install", small[2], "--root", root, "--no-check", "--key", keys.public)
    assert (done.status, "nobody" in done.err) == (0, False)
    assert_refused(edgeq("install", small[0], "--root", root, "--no-check"), "not signed")


def test_damage_is_exit_status_1(edgeq: Edgeq, small: list[Path], root: Path) -> None:
    edgeq("install", small[0], "--root", root, "--no-check")
    (root / "current" / "a").write_bytes(b"b" * 500)
    assert edgeq("list", "--root", root).status == 0
    done = edgeq("list", "--root", root, "--check")
    assert done.status == 1
    assert short(small[0]) in done.out
    assert f"1 of 1 versions are damaged: {short(small[0])}" in done.err


def test_a_name_is_not_markup(edgeq: Edgeq, tmp_path: Path, root: Path) -> None:
    edgeq("install", make_bundle(tmp_path / "[red]b", {"a": b"a"}), "--root", root, "--no-check")
    assert "[red]b" in edgeq("list", "--root", root).out


def test_refusals(edgeq: Edgeq, small: list[Path], tmp_path: Path, root: Path, keys: KeyPair) -> None:
    for verb in (("rollback",), ("list",), ("prune", "--keep", "1")):
        assert_refused(edgeq(*verb, "--root", root), "nothing is installed", f"edgeq install BUNDLE --root {root}")
    assert_refused(edgeq("install", tmp_path / "none", "--root", root), "is not there")
    assert_refused(edgeq("install", small[0], "--root", root, "--key", keys.public), "is not signed")
    assert_refused(edgeq("install", small[0], "--root", root, "--key", keys.private), "private key")
    assert_refused(edgeq("install", small[0], "--root", root, "--no-check", "--answers"), "--no-check")
    other = make_bundle(tmp_path / "other", {"a": b"a"}, needs=DeviceNeeds(edgeq=">=99"))
    packed = tmp_path / "other.edgeq.tar"
    assert edgeq("bundle", "pack", other, "-o", packed).status == 0
    for source in (other, packed):
        done = edgeq("install", source, "--root", root, "--no-check")
        assert_refused(done, f"{source} is not for this device", "edgeq >=99")
    assert edgeq("install", small[0], "--root", root, "--no-check").status == 0
    assert_refused(edgeq("rollback", "--root", root), "no previous version")
    assert_refused(edgeq("prune", "--root", root), "--keep")


def test_a_bundle_without_canaries_is_not_put_in_use_unseen(edgeq: Edgeq, small: list[Path], root: Path) -> None:
    done = edgeq("install", small[0], "--root", root, "--backend", "onnxruntime")
    assert done.status == 1
    assert "canaries" in done.err
    assert not (root / "current").exists()
