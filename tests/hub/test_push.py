"""A bundle to a simulated hub: what is sent is what was listed and checked, and nothing without a yes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Edgeq
from packed import contents_of, make_bundle
from simulated_hub import TOKEN, SimulatedHub, simulated_hub

import edgeq as api
from edgeq.bundle.errors import DigestError
from edgeq.bundle.keys import KeyPair, load_private
from edgeq.bundle.manifest_signature import sign_manifest
from edgeq.errors import InputError, OutputError
from edgeq.hub import plan_push, push

NAME = "inspectors/cracks"


@pytest.fixture
def hub() -> Iterator[SimulatedHub]:
    with simulated_hub() as hub:
        yield hub


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = make_bundle(tmp_path / "bundle")
    (made / ".cache").mkdir()
    (made / ".cache" / "secret").write_text("hidden files are no part of a bundle")
    return made


def listed(bundle: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents_of(bundle).items() if not name.startswith(".")}


def test_the_bundle_and_nothing_else_goes_out_in_one_commit(hub: SimulatedHub, bundle: Path, ours: KeyPair) -> None:
    manifest = (bundle / "manifest.json").read_bytes()
    (bundle / "manifest.sig").write_bytes(sign_manifest(manifest, load_private(Path(ours.private))))
    done = api.push(bundle, NAME, keys=[ours.public], endpoint=hub.url, token=TOKEN)
    assert hub.files == {NAME: listed(bundle)}
    assert "manifest.sig" in hub.files[NAME]
    assert hub.repositories == {NAME: True}
    assert sum("/commit/" in each for each in hub.asked) == 1
    assert {file.name for file in done.plan.files} == set(hub.files[NAME])
    assert done.url == f"{hub.url}/{NAME}/commit/{'0' * 40}"


def test_public_only_where_that_is_said(hub: SimulatedHub, bundle: Path) -> None:
    api.push(bundle, NAME, private=False, endpoint=hub.url, token=TOKEN)
    assert hub.repositories == {NAME: False}
    before = len(hub.asked)
    with pytest.raises(InputError, match="is there and is public"):
        api.push(bundle, NAME, endpoint=hub.url, token=TOKEN)
    assert [each.split()[0] for each in hub.asked[before:]] == ["GET"]


def test_what_is_there_besides_stops_it_or_is_removed(hub: SimulatedHub, bundle: Path) -> None:
    hub.repositories[NAME] = True
    hub.files[NAME] = {"old.onnx": b"old", ".gitattributes": b"*"}
    with pytest.raises(InputError, match=r"holds 1 files that the bundle does not list: old\.onnx"):
        api.push(bundle, NAME, endpoint=hub.url, token=TOKEN)
    done = api.push(bundle, NAME, remove_others=True, endpoint=hub.url, token=TOKEN)
    assert done.removed == ("old.onnx",)
    assert hub.files[NAME] == {**listed(bundle), ".gitattributes": b"*"}


def test_a_file_that_changes_after_it_was_listed_is_not_sent(hub: SimulatedHub, bundle: Path) -> None:
    plan = plan_push(bundle, NAME)
    (bundle / "model.onnx").write_bytes(b"other" * 999)
    with pytest.raises(DigestError):
        push(plan, endpoint=hub.url, token=TOKEN)
    assert hub.repositories == {}


def test_a_token_that_may_not_write(hub: SimulatedHub, bundle: Path) -> None:
    with pytest.raises(OutputError, match="status 401") as caught:
        api.push(bundle, NAME, endpoint=hub.url, token="hf_other")
    assert "hf auth login" in str(caught.value)
    assert hub.repositories == {}


def test_a_hub_that_is_not_there(bundle: Path) -> None:
    with pytest.raises(OutputError, match="cannot be reached"):
        api.push(bundle, NAME, endpoint="http://127.0.0.1:9", token=TOKEN)


@pytest.mark.parametrize("name", ["cracks", "a/b/c", "../cracks", "a/b c", "a/" + "b" * 99, ""])
def test_names_are_looked_at_first(name: str, bundle: Path) -> None:
    with pytest.raises(InputError, match="is no repository"):
        plan_push(bundle, name)


def test_a_dry_run_lists_and_asks_nobody(edgeq: Edgeq, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.hub._api", lambda *_: pytest.fail("the hub was asked"))
    done = edgeq("push", bundle, NAME, "--dry-run")
    assert done.status == 0
    for name, data in listed(bundle).items():
        assert name in done.out
        assert f"{len(data):,}" in done.out
    assert "private repository" in done.out
    assert "It is not signed" in done.out


def test_without_a_yes_nothing_is_sent(edgeq: Edgeq, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.hub._api", lambda *_: pytest.fail("the hub was asked"))
    asked = edgeq("push", bundle, NAME)
    assert asked.status == 2
    assert "nobody can be asked" in asked.err
    assert edgeq("push", bundle, NAME, "--json").status == 2


def test_the_command_finds_hub_and_token_by_itself(hub: SimulatedHub, bundle: Path, tmp_path: Path) -> None:
    """HF_ENDPOINT and HF_TOKEN, in a process of its own: huggingface_hub reads them when it is imported."""
    told = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-c", "from edgeq.cli import main; main()", "push", str(bundle), NAME, "--yes"]
    done = subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/{NAME}/commit/" in done.stdout
    assert hub.files == {NAME: listed(bundle)}
    assert TOKEN in hub.tokens
