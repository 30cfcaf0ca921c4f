"""The manifest: what is written is read back, and whatever differs from it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from edgeq.bundle import manifest as module
from edgeq.bundle.manifest import MANIFEST, BundledFile, read_manifest, write_manifest
from edgeq.errors import ArtifactError

CONTENTS = {"model.onnx": b"graph", "plan.yaml": b"layers: []\n", "empty": b""}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    directory = tmp_path / "bundle"
    directory.mkdir()
    for name, content in CONTENTS.items():
        (directory / name).write_bytes(content)
    write_manifest(directory, labels=("cat", "dog"))
    return directory


def rewrite(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest's JSON in place."""
    content = json.loads((bundle / MANIFEST).read_text())
    change(content)
    (bundle / MANIFEST).write_text(json.dumps(content))


def test_every_file_is_listed_with_its_size_and_digest(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.labels == ("cat", "dog")
    assert manifest.files == tuple(
        BundledFile(name=name, size=len(content), sha256=sha256(content).hexdigest())
        for name, content in sorted(CONTENTS.items())
    )


def test_what_was_written_is_read_back(bundle: Path) -> None:
    assert write_manifest(bundle, labels=("cat", "dog")) == read_manifest(bundle)


def test_the_manifest_does_not_depend_on_the_order_of_writing(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name, content in reversed(CONTENTS.items()):
        (other / name).write_bytes(content)
    write_manifest(other, labels=("cat", "dog"))
    assert (other / MANIFEST).read_bytes() == (bundle / MANIFEST).read_bytes()


@pytest.mark.parametrize("name", CONTENTS)
def test_a_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(ArtifactError, match=f"lacks its file '{name}'"):
        read_manifest(bundle)


def test_files_in_directories_are_listed_and_checked(bundle: Path) -> None:
    (bundle / "language" / "shards").mkdir(parents=True)
    (bundle / "language" / "shards" / "1.safetensors").write_bytes(b"weights")
    made = write_manifest(bundle, kind="vision-language")
    assert (made.kind, made.labels) == ("vision-language", ())
    assert "language/shards/1.safetensors" in [file.name for file in made.files]
    assert read_manifest(bundle) == made
    (bundle / "language" / "shards" / "1.safetensors").write_bytes(b"weightS")
    with pytest.raises(ArtifactError, match=r"1\.safetensors is not the file that the manifest lists"):
        read_manifest(bundle)


def test_a_file_in_a_directory_that_is_not_listed(bundle: Path) -> None:
    (bundle / "language").mkdir()
    (bundle / "language" / "model.safetensors").write_bytes(b"smuggled in")
    with pytest.raises(ArtifactError, match=r"model\.safetensors is not listed"):
        read_manifest(bundle)


def test_a_bundle_may_be_reached_by_a_link(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle)
    assert read_manifest(tmp_path / "current") == read_manifest(bundle)


@pytest.mark.parametrize("content", [b"grapH", b"grap", b"graphs", b""])
def test_a_changed_file(bundle: Path, content: bytes) -> None:
    (bundle / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx is not the file that the manifest lists"):
        read_manifest(bundle)


def test_a_file_that_became_a_link_to_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    (bundle / "model.onnx").rename(tmp_path / "elsewhere")
    (bundle / "model.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"lacks its file 'model\.onnx'"):
        read_manifest(bundle)


def test_a_file_that_became_a_directory(bundle: Path) -> None:
    (bundle / "empty").unlink()
    (bundle / "empty").mkdir()
    with pytest.raises(ArtifactError, match="lacks its file 'empty'"):
        read_manifest(bundle)


def test_a_file_that_is_not_listed(bundle: Path) -> None:
    (bundle / "model.int8.ort.onnx").write_bytes(b"smuggled in")
    with pytest.raises(ArtifactError, match=r"model\.int8\.ort\.onnx is not listed"):
        read_manifest(bundle)


def test_a_hidden_file_does_not_matter(bundle: Path) -> None:
    (bundle / ".DS_Store").write_bytes(b"left by a file manager")
    assert len(read_manifest(bundle).files) == len(CONTENTS)


def test_a_manifest_that_lists_nothing(bundle: Path) -> None:
    rewrite(bundle, lambda content: content.update(files=[]))
    with pytest.raises(ArtifactError, match="is not listed"):
        read_manifest(bundle)


ELSEWHERE = ("../outside", "sub/../../outside", "..", ".", "", "./sub/file", "sub//file", "link/file", "/etc/hostname")


@pytest.mark.parametrize("name", [*ELSEWHERE, "a\0b"])
def test_a_name_that_leads_elsewhere(bundle: Path, name: str) -> None:
    """Even where the file it leads to is there and has the right digest."""
    (bundle.parent / "outside").write_bytes(b"x")
    (bundle / "sub").mkdir()
    (bundle / "sub" / "file").write_bytes(b"x")
    (bundle / "link").symlink_to(bundle / "sub")
    entry = {"name": name, "size": 1, "sha256": sha256(b"x").hexdigest()}
    rewrite(bundle, lambda content: content["files"].append(entry))
    with pytest.raises(ArtifactError, match="lacks its file"):
        read_manifest(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(version="edgeq.bundle/2"),
        lambda content: content.update(extra=1),
        lambda content: content["files"][0].update(extra=1),
        lambda content: content.update(kind="spaceship"),
        lambda content: content.pop("made_by"),
        lambda content: content.pop("files"),
        lambda content: content["files"][0].pop("sha256"),
        lambda content: content["files"][0].update(size="many"),
        lambda content: content["files"].append(content["files"][0]),
    ],
    ids=["version", "extra key", "extra key of a file", "kind", "no maker", "no files", "no digest", "size", "twice"],
)
def test_a_manifest_of_another_form(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    rewrite(bundle, change)
    with pytest.raises(ArtifactError, match="is not a bundle") as caught:
        read_manifest(bundle)
    assert "edgeq.bundle/1" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_none(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match="is not a bundle"):
        read_manifest(bundle)


def test_no_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="is not a bundle"):
        read_manifest(bundle)
    with pytest.raises(ArtifactError, match="is not a bundle"):
        read_manifest(bundle / "nowhere")


def test_a_manifest_that_is_too_large_is_not_read(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (bundle / MANIFEST).stat().st_size
    monkeypatch.setattr(module, "MAX_MANIFEST_BYTES", size)
    read_manifest(bundle)
    monkeypatch.setattr(module, "MAX_MANIFEST_BYTES", size - 1)
    with pytest.raises(ArtifactError, match="is not a bundle") as caught:
        read_manifest(bundle)
    assert f"larger than {size - 1} bytes" in str(caught.value)
