"""The manifest: what is written is read back, and whatever differs from it is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from packed import rewrite

from edgeq.bundle.errors import (
    DigestError,
    IrregularFileError,
    LengthError,
    LinkError,
    ManifestError,
    MissingFileError,
    UnlistedFileError,
    UnsafeNameError,
)
from edgeq.bundle.limits import Limits
from edgeq.bundle.manifest import MANIFEST, BundledFile, DeviceNeeds, read_manifest, write_manifest
from edgeq.bundle.verify import verify_bundle

CONTENTS = {"model.onnx": b"graph", "plan.yaml": b"layers: []\n", "empty": b""}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    directory = tmp_path / "bundle"
    directory.mkdir()
    for name, content in CONTENTS.items():
        (directory / name).write_bytes(content)
    write_manifest(directory, labels=("cat", "dog"))
    return directory


def test_every_file_is_listed_with_its_size_and_digest(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.labels == ("cat", "dog")
    assert manifest.files == tuple(
        BundledFile(name=name, size=len(content), sha256=sha256(content).hexdigest())
        for name, content in sorted(CONTENTS.items())
    )


def test_what_was_written_is_read_back(bundle: Path) -> None:
    needs = DeviceNeeds(memory_bytes=12_000_000_000, compute_capability=("8.7",), tensorrt=">=10.3,<12", edgeq=">=0.1")
    assert write_manifest(bundle, labels=("cat", "dog")) == read_manifest(bundle)
    assert write_manifest(bundle, allowed={"EQ107": "a trial"}, needs=needs) == read_manifest(bundle)


def test_a_manifest_without_needs_needs_nothing(bundle: Path) -> None:
    rewrite(bundle, lambda content: content.pop("needs"))
    assert read_manifest(bundle).needs == DeviceNeeds()


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
    with pytest.raises(MissingFileError, match=f"lacks its file '{name}'"):
        read_manifest(bundle)


def test_files_in_directories_are_listed_and_checked(bundle: Path) -> None:
    (bundle / "language" / "shards").mkdir(parents=True)
    (bundle / "language" / "shards" / "1.safetensors").write_bytes(b"weights")
    made = write_manifest(bundle, kind="vision-language")
    assert (made.kind, made.labels) == ("vision-language", ())
    assert "language/shards/1.safetensors" in [file.name for file in made.files]
    assert read_manifest(bundle) == made
    (bundle / "language" / "shards" / "1.safetensors").write_bytes(b"weightS")
    with pytest.raises(DigestError, match=r"1\.safetensors is not the file that the manifest lists"):
        read_manifest(bundle)


def test_a_file_in_a_directory_that_is_not_listed(bundle: Path) -> None:
    (bundle / "language").mkdir()
    (bundle / "language" / "model.safetensors").write_bytes(b"smuggled in")
    with pytest.raises(UnlistedFileError, match=r"model\.safetensors is not listed"):
        read_manifest(bundle)


def test_a_bundle_may_be_reached_by_a_link(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle)
    assert read_manifest(tmp_path / "current") == read_manifest(bundle)


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"grapH", DigestError), (b"grap", LengthError), (b"graphs", LengthError), (b"", LengthError)],
)
def test_a_changed_file(bundle: Path, content: bytes, error: type[Exception]) -> None:
    (bundle / "model.onnx").write_bytes(content)
    with pytest.raises(error, match=r"model\.onnx is not the file that the manifest lists"):
        read_manifest(bundle)


def test_a_file_that_became_a_link_to_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    (bundle / "model.onnx").rename(tmp_path / "elsewhere")
    (bundle / "model.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LinkError, match=r"model\.onnx is a symbolic link"):
        read_manifest(bundle)


def test_a_file_that_became_a_directory(bundle: Path) -> None:
    (bundle / "empty").unlink()
    (bundle / "empty").mkdir()
    with pytest.raises(MissingFileError, match="lacks its file 'empty'"):
        read_manifest(bundle)


@pytest.mark.parametrize("name", ["model.onnx", MANIFEST, "further"])
def test_a_pipe_is_not_waited_for(bundle: Path, name: str) -> None:
    (bundle / name).unlink(missing_ok=True)
    os.mkfifo(bundle / name)
    with pytest.raises(IrregularFileError, match=f"{name} is no plain file"):
        read_manifest(bundle)


@pytest.mark.parametrize("name", [MANIFEST, "further", "language"])
def test_a_link_in_a_bundle(bundle: Path, tmp_path: Path, name: str) -> None:
    """Even one that leads to the right bytes, or to nothing."""
    target = tmp_path / "elsewhere"
    if (bundle / name).exists():
        (bundle / name).rename(target)
    (bundle / name).symlink_to(target)
    with pytest.raises(LinkError, match=f"{name} is a symbolic link"):
        read_manifest(bundle)


def test_a_link_is_not_bundled(bundle: Path) -> None:
    (bundle / "further").symlink_to(bundle / "plan.yaml")
    with pytest.raises(LinkError, match="further is a symbolic link"):
        write_manifest(bundle)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\udcffb"])
def test_a_name_that_cannot_be_shown_is_not_bundled(bundle: Path, name: str) -> None:
    (bundle / name).touch()
    with pytest.raises(UnsafeNameError, match="cannot be shown"):
        write_manifest(bundle)


def test_a_file_that_is_not_listed(bundle: Path) -> None:
    (bundle / "model.int8.ort.onnx").write_bytes(b"smuggled in")
    with pytest.raises(UnlistedFileError, match=r"model\.int8\.ort\.onnx is not listed"):
        read_manifest(bundle)


def test_a_hidden_file_does_not_matter(bundle: Path) -> None:
    (bundle / ".DS_Store").write_bytes(b"left by a file manager")
    assert len(read_manifest(bundle).files) == len(CONTENTS)


def test_a_manifest_that_lists_nothing(bundle: Path) -> None:
    rewrite(bundle, lambda content: content.update(files=[]))
    with pytest.raises(UnlistedFileError, match="is not listed"):
        read_manifest(bundle)


ELSEWHERE = ("../outside", "sub/../../outside", "..", ".", "", "./sub/file", "sub//file", "sub/", "/etc/hostname")
NO_NAMES = ("a\0b", "a\nb", ".hidden", "sub/.hidden", "x" * 256, "sub/" * 256 + "x")


@pytest.mark.parametrize("name", [*ELSEWHERE, *NO_NAMES])
def test_a_name_that_leads_elsewhere(bundle: Path, name: str) -> None:
    """Even where the file it leads to is there and has the right digest."""
    (bundle.parent / "outside").write_bytes(b"x")
    (bundle / "sub").mkdir()
    (bundle / "sub" / "file").write_bytes(b"x")
    entry = {"name": name, "size": 1, "sha256": sha256(b"x").hexdigest()}
    rewrite(bundle, lambda content: content["files"].append(entry))
    with pytest.raises(UnsafeNameError):
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
        lambda content: content["files"][0].update(size=-1),
        lambda content: content["files"][0].update(sha256="0" * 63),
        lambda content: content["files"][0].update(name=MANIFEST),
        lambda content: content["files"][0].update(name="manifest.sig"),
        lambda content: content["files"][0].update(name="model.onnx/weights"),
        lambda content: content.update(needs={"tensorrt": "10.3"}),
        lambda content: content.update(needs={"compute_capability": ["orin"]}),
        lambda content: content.update(needs={"memory_bytes": -1}),
        lambda content: content.update(needs={"luck": 1}),
    ],
    ids=[
        *("version", "extra key", "extra key of a file", "kind", "no maker", "no files", "no digest", "size", "twice"),
        *("less than nothing", "digest", "itself", "its signature", "below a file"),
        *("no range", "no capability", "no memory", "no such need"),
    ],
)
def test_a_manifest_of_another_form(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    rewrite(bundle, change)
    with pytest.raises(ManifestError, match="is not a bundle") as caught:
        read_manifest(bundle)
    assert "edgeq.bundle/1" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_none(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(ManifestError, match="is not a bundle"):
        read_manifest(bundle)


def test_no_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()
    with pytest.raises(ManifestError, match="is not a bundle"):
        read_manifest(bundle)
    with pytest.raises(ManifestError, match="is not a bundle"):
        read_manifest(bundle / "nowhere")


def test_limits_are_kept_to_the_byte(bundle: Path) -> None:
    size = (bundle / MANIFEST).stat().st_size
    sizes = [len(content) for content in CONTENTS.values()]
    exact = {"manifest_bytes": size, "name_bytes": 10, "files": 3, "file_bytes": max(sizes), "total_bytes": sum(sizes)}
    verify_bundle(bundle, limits=Limits(**exact))
    for name, most in exact.items():
        error = UnsafeNameError if name == "name_bytes" else LengthError
        with pytest.raises(error):
            verify_bundle(bundle, limits=Limits(**{**exact, name: most - 1}))


def test_a_manifest_that_is_too_large_is_not_read(bundle: Path) -> None:
    with (bundle / MANIFEST).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LengthError, match=r"manifest\.json has 1,099,511,627,776 bytes"):
        read_manifest(bundle)
