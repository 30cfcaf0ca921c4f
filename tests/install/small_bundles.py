"""Bundles of a few hundred bytes, and a look at a store that does not use the code that made it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from packed import make_bundle

WEIGHTS = bytes(range(256)) * 2
"""The same in every version, as a language model's weights are."""


def make_version(directory: Path, number: int) -> str:
    """Write version `number` of a small bundle, one of whose files is its own, and return its id."""
    return sha256(
        make_bundle(directory, {"language/weights": WEIGHTS, "vision.onnx": own_bytes(number)}) / "manifest.json"
    )


def own_bytes(number: int) -> bytes:
    """What version `number` has and no other."""
    return b"vision %d " % number * 20


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def whole(link: Path) -> str | None:
    """The id of the version that a link of a store leads to, which must be whole; None where it leads nowhere."""
    if not link.exists():
        return None
    directory = link.resolve()
    assert directory.parent.name == "versions"
    check_version(directory)
    return directory.name


def check_version(directory: Path) -> None:
    """A version has the files of its manifest, byte for byte, and no others."""
    raw = (directory / "manifest.json").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == directory.name
    listed = {file["name"]: (file["size"], file["sha256"]) for file in json.loads(raw)["files"]}
    found = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    assert {*found} - {"manifest.sig"} == {*listed, "manifest.json"}
    for name, (size, digest) in listed.items():
        assert ((directory / name).stat().st_size, sha256(directory / name)) == (size, digest), name


def pair(root: Path) -> tuple[str | None, str | None]:
    """The ids of the current and the previous version, both of which are whole."""
    return whole(root / "current"), whole(root / "previous")


def check_clean(root: Path) -> None:
    """Nothing in a store is half-made or belongs to no version; every version is whole."""
    assert [*(root / "staging").iterdir()] == []
    assert [path for path in root.rglob("*") if path.name.startswith(".")] == []
    versions = {path.name for path in (root / "versions").iterdir()}
    for name in versions:
        check_version(root / "versions" / name)
    assert {path.stem for path in (root / "records").iterdir()} == versions
    for path in (root / "objects").glob("*/*"):
        assert path.name == sha256(path)
        assert path.stat().st_nlink > 1, f"{path} is in no version"
