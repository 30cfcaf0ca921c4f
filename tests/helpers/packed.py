"""Small bundles, keys, and transport files made block by block, as nobody honest would make them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgeq.bundle.keys import KeyPair, make_keys
from edgeq.bundle.manifest import MANIFEST, Kind, write_manifest
from edgeq.bundle.needs import DeviceNeeds

CONTENTS = {
    "empty": b"",
    "language/model.safetensors": bytes(range(256)) * 100,
    "model.onnx": b"graph" * 999,
    "plan.yaml": b"layers: []\n",
}
"""Of every small bundle: names in their order, one of them in a directory."""


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """Keys that a device trusts; not to be written to."""
    return make_keys(tmp_path_factory.mktemp("keys") / "ours")


@pytest.fixture(scope="session")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """Keys that it does not know; not to be written to."""
    return make_keys(tmp_path_factory.mktemp("keys") / "theirs")


@pytest.fixture
def orin_bundle(tmp_path: Path) -> Path:
    """A small bundle that asks for an Orin's GPU."""
    return make_bundle(tmp_path / "bundle", needs=DeviceNeeds(compute_capability=("8.7",)))


def make_bundle(
    directory: Path,
    contents: Mapping[str, bytes] = CONTENTS,
    *,
    kind: Kind = "classifier",
    labels: tuple[str, ...] = ("cat", "dog"),
    allowed: Mapping[str, str] | None = None,
    needs: DeviceNeeds | None = None,
) -> Path:
    """A bundle with these files."""
    for name, content in contents.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    write_manifest(directory, kind=kind, labels=labels, allowed=allowed, needs=needs)
    return directory


def rewrite(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest's JSON in place."""
    content = json.loads((bundle / MANIFEST).read_text())
    change(content)
    (bundle / MANIFEST).write_text(json.dumps(content))


def snapshot(directory: Path) -> dict[str, str]:
    """Everything below, hidden ones too: a file's digest, a link's target, or what else it is."""
    return {path.relative_to(directory).as_posix(): _seen(path) for path in sorted(directory.rglob("*"))}


def _seen(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"


def member(
    name: str,
    content: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    size: int | None = None,
    form: int = tarfile.USTAR_FORMAT,
) -> bytes:
    """One member as Python's tarfile writes it; `size` is what its header says, right or wrong."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(content) if size is None else size
    return info.tobuf(form, "utf-8", "strict") + content + bytes(-len(content) % 512)  # type: ignore[arg-type]


def contents_of(bundle: Path) -> dict[str, bytes]:
    """Every file of a bundle as it should be packed: the manifest first."""
    names = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())
    names.sort(key=lambda name: not name.startswith(MANIFEST.partition(".")[0]))
    return {name: (bundle / name).read_bytes() for name in names}


def write_tar(path: Path, members: Iterable[bytes]) -> Path:
    """A transport file of these members, with an end."""
    path.write_bytes(b"".join(members) + bytes(1024))
    return path


def members_of(tar: bytes) -> dict[str, bytes]:
    """What Python's own reader finds in an archive, in its order."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        found = {}
        for info in archive.getmembers():
            file = archive.extractfile(info)
            assert file is not None
            found[info.name] = file.read()
        return found
