"""`edgeq keygen`, `sign`, `verify` and `bundle`: the way of a bundle from the workshop to a device."""

from __future__ import annotations

import hashlib
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from command import Edgeq, assert_refused
from packed import CONTENTS, make_bundle, snapshot

from edgeq import __version__
from edgeq.api.device import bundles
from edgeq.bundle.contents import MANIFEST, SIGNATURE
from edgeq.bundle.needs import DeviceNeeds

BYTES = sum(len(content) for content in CONTENTS.values())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def test_the_whole_way(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    made = edgeq("keygen", tmp_path / "fleet", "--json")
    pair = json.loads(made.out)
    assert (made.status, pair["private"]) == (0, str(tmp_path / "fleet.private.pem"))
    assert stat.S_IMODE(Path(pair["private"]).stat().st_mode) == 0o600
    signed = edgeq("sign", bundle, "--key", pair["private"], "--json")
    assert json.loads(signed.out) == {"signature": str(bundle / SIGNATURE), "signed_by": pair["id"]}
    assert edgeq("bundle", "pack", bundle).status == 0
    for given in (bundle, tmp_path / "bundle.edgeq.tar"):
        answer = json.loads(edgeq("verify", given, "--key", pair["public"], "--json").out)
        assert answer == {
            "version": "edgeq.verified/1",
            "kind": "classifier",
            "made_by": f"edgeq {__version__}",
            "digest": hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest(),
            "signed_by": pair["id"],
            "files": len(CONTENTS),
            "bytes": BYTES,
            **dict.fromkeys(("product", "sequence", "made", "expires")),  # nobody has said which release it is
        }
    done = edgeq("bundle", "unpack", tmp_path / "bundle.edgeq.tar", "-o", tmp_path / "back", "--key", pair["public"])
    assert done.status == 0
    assert snapshot(tmp_path / "back") == snapshot(bundle)
    assert edgeq("bundle", "diff", bundle, tmp_path / "back").out == "The bundles are the same.\n"


def test_for_people(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    made = edgeq("keygen", tmp_path / "fleet")
    identity = made.out.rstrip(".\n").rpartition(" ")[2]
    unchecked = edgeq("verify", bundle)
    assert f"{bundle} is whole: 4 files, 0.0 MB, by edgeq {__version__}." in unchecked.out
    assert "Its signature was not checked" in unchecked.out
    assert identity in edgeq("sign", bundle, "--key", tmp_path / "fleet.private.pem").out
    assert f"signed with the key {identity}" in edgeq("verify", bundle, "--key", tmp_path / "fleet.public.pem").out


def test_packing_prints_the_manifest_as_json(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    packed = edgeq("bundle", "pack", bundle, "-o", tmp_path / "b.tar", "--json")
    assert json.loads(packed.out) == json.loads((bundle / MANIFEST).read_text())
    unpacked = edgeq("bundle", "unpack", tmp_path / "b.tar", "-o", tmp_path / "back", "--json")
    assert unpacked.out == packed.out


def test_diff_for_people_and_machines(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", {"new.onnx": b"123", "plan.yaml": b"[]"}, labels=("cat", "[red]dog"))
    shown = edgeq("bundle", "diff", bundle, other).out
    for text in ("model.onnx", "4,995 bytes", "new.onnx", "3 bytes", "2 other bytes", "labels.1", "[red]dog"):
        assert text in shown
    told = json.loads(edgeq("bundle", "diff", bundle, other, "--json").out)
    assert [file["name"] for file in told["added"]] == ["new.onnx"]
    assert [file["name"] for file in told["removed"]] == ["empty", "language/model.safetensors", "model.onnx"]
    assert told["changed"] == [{"name": "plan.yaml", "size_before": 11, "size_after": 2}]
    assert told["facts"] == [{"name": "labels.1", "before": "dog", "after": "[red]dog"}]


def test_refusals_are_a_few_lines(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    edgeq("keygen", tmp_path / "ours")
    edgeq("keygen", tmp_path / "theirs")
    ours, theirs = tmp_path / "ours.public.pem", tmp_path / "theirs.public.pem"
    assert_refused(edgeq("verify", bundle, "--key", ours), "is not signed", "edgeq sign")
    edgeq("sign", bundle, "--key", tmp_path / "ours.private.pem")
    assert_refused(edgeq("verify", bundle, "--key", theirs), "was signed with the key")
    assert_refused(edgeq("verify", bundle, "--key", tmp_path / "ours.private.pem"), "holds no public key")
    assert_refused(edgeq("verify", bundle, "--key", tmp_path / "nowhere"), "cannot be read")
    assert_refused(edgeq("verify", tmp_path / "nowhere"), "cannot be read")
    assert_refused(edgeq("verify", tmp_path), "is not a bundle")
    assert_refused(edgeq("sign", bundle, "--key", ours), "holds no private key")
    assert_refused(edgeq("keygen", tmp_path / "ours"), "exists already")
    assert_refused(edgeq("bundle", "pack", tmp_path, "-o", tmp_path.parent / "b.tar"), "is not a bundle")
    (bundle / "model.onnx").write_bytes(b"graph")
    for verb in (["verify", bundle], ["sign", bundle, "--key", tmp_path / "ours.private.pem"]):
        assert_refused(edgeq(*verb), "model.onnx is not the file that the manifest lists")
    assert_refused(edgeq("bundle", "diff", bundle, bundle), "model.onnx is not the file that the manifest lists")
    assert_refused(edgeq("bundle", "pack", bundle), "model.onnx is not the file that the manifest lists")
    assert not (tmp_path / "bundle.edgeq.tar").exists()


def test_a_refused_file_leaves_nothing(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    edgeq("bundle", "pack", bundle)
    whole = (tmp_path / "bundle.edgeq.tar").read_bytes()
    (tmp_path / "bundle.edgeq.tar").write_bytes(whole[:-513])
    before = snapshot(tmp_path)
    done = edgeq("bundle", "unpack", tmp_path / "bundle.edgeq.tar", "-o", tmp_path / "back")
    assert_refused(done, "ends too early")
    assert snapshot(tmp_path) == before


def test_this_device(edgeq: Edgeq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU that is not there, so that every machine gives the same answer."""
    monkeypatch.setattr(bundles, "ask_driver", lambda: None)
    modest = make_bundle(tmp_path / "modest", needs=DeviceNeeds(memory_bytes=1, edgeq=f"=={__version__}"))
    assert edgeq("verify", modest, "--this-device").status == 0
    greedy = make_bundle(tmp_path / "greedy", needs=DeviceNeeds(memory_bytes=1 << 60, compute_capability=("8.7",)))
    assert edgeq("verify", greedy).status == 0
    assert_refused(
        edgeq("verify", greedy, "--this-device"), "is not for this device", "of memory", "capability 8.7, there is none"
    )
    edgeq("bundle", "pack", greedy)
    done = edgeq("bundle", "unpack", tmp_path / "greedy.edgeq.tar", "-o", tmp_path / "back", "--this-device")
    assert_refused(done, "is not for this device")
    assert not (tmp_path / "back").exists()


def test_a_device_without_the_workshop_can_do_all_this() -> None:
    """The verbs are loaded while every package of the workshop is refused, and cryptography too."""
    code = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnx", "torch", "transformers", "safetensors", "cryptography"):
            raise AssertionError(name)

sys.meta_path.insert(0, Refuse())
for verb in ("verify", "keygen", "sign", "bundle"):
    importlib.import_module(f"edgeq.cli.device.{verb}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
