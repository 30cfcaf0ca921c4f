"""What is loaded is what was checked: each way to change a bundle in between is found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from packed import CONTENTS, make_bundle

from edgeq.bundle import snapshot, verify
from edgeq.bundle.directory import copy_file
from edgeq.bundle.errors import DigestError
from edgeq.bundle.keys import KeyPair
from edgeq.bundle.signature import sign_bundle
from edgeq.bundle.verify import Trust, Verified, check_unchanged, examine


@pytest.fixture
def bundle(tmp_path: Path, ours: KeyPair) -> Path:
    made = make_bundle(tmp_path / "bundle")
    sign_bundle(made, ours.private)
    return made


def rewrite_in_place(bundle: Path, name: str) -> None:
    """Other bytes of the same length, and the old times."""
    path = bundle / name
    times = path.stat()
    with path.open("r+b") as file:
        file.write(b"\xff")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace(bundle: Path, name: str) -> None:
    (bundle / "other").write_bytes(bytes((bundle / name).stat().st_size))
    (bundle / "other").replace(bundle / name)


def swap_a_directory(bundle: Path, name: str) -> None:
    """Another one stands there for a while, and the first one comes back untouched."""
    directory = bundle / Path(name).parts[0]
    directory.rename(bundle.parent / "aside")
    shutil.copytree(bundle.parent / "aside", directory)
    rewrite_in_place(bundle, name)
    shutil.rmtree(directory)
    (bundle.parent / "aside").rename(directory)


CHANGES: dict[str, tuple[Callable[[Path, str], object], str]] = {
    "in place": (rewrite_in_place, "model.onnx"),
    "in place, below": (rewrite_in_place, "language/model.safetensors"),
    "the manifest": (rewrite_in_place, "manifest.json"),
    "the signature": (rewrite_in_place, "manifest.sig"),
    "replaced": (replace, "plan.yaml"),
    "removed": (lambda bundle, name: (bundle / name).unlink(), "empty"),
    "added": (lambda bundle, name: (bundle / name).write_text("{{ evil }}"), "language/chat_template.jinja"),
    "a link instead": (lambda bundle, name: _link(bundle / name), "model.onnx"),
    "a directory and back": (swap_a_directory, "language/model.safetensors"),
    "all of it": (lambda bundle, _name: shutil.rmtree(bundle), ""),
}


def _link(path: Path) -> None:
    path.rename(path.parent.parent / "moved")
    path.symlink_to(path.parent.parent / "moved")


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize(("change", "name"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_after_the_check(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path, str], object], name: str, large: bool
) -> None:
    """Found by the bytes, and of files that are too large to be read again, by what the kernel keeps of them."""
    if large:
        monkeypatch.setattr(snapshot, "_SMALL_BYTES", -1)
        monkeypatch.setattr(snapshot, "_RACY_NS", 0)
    verified = examine(bundle, Trust())
    check_unchanged(bundle, verified)
    change(bundle, name)
    with pytest.raises(DigestError, match="changed after it was checked"):
        check_unchanged(bundle, verified)


def _read(monkeypatch: pytest.MonkeyPatch, bundle: Path, verified: Verified) -> list[str]:
    """The files that the second look reads."""
    read = list[str]()

    def copy(path: Path, size: int) -> str:
        read.append(path.name)
        return copy_file(path, size)

    monkeypatch.setattr(verify, "copy_file", copy)
    check_unchanged(bundle, verified)
    monkeypatch.undo()
    return sorted(read)


def test_large_files_are_read_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for those that changed so shortly before that no clock can tell, and those with another name since."""
    weights, small = "model.safetensors", len(CONTENTS["language/model.safetensors"]) - 1
    verified = examine(bundle, Trust())
    monkeypatch.setattr(snapshot, "_SMALL_BYTES", small)
    assert weights in _read(monkeypatch, bundle, verified)
    monkeypatch.setattr(snapshot, "_SMALL_BYTES", small)
    monkeypatch.setattr(snapshot, "_RACY_NS", 0)
    assert weights not in _read(monkeypatch, bundle, verified)
    os.link(bundle / "language" / weights, bundle.parent / "as install does")
    monkeypatch.setattr(snapshot, "_SMALL_BYTES", small)
    monkeypatch.setattr(snapshot, "_RACY_NS", 0)
    assert weights in _read(monkeypatch, bundle, verified)
