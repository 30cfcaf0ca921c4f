"""What the machine is given: releases of a classifier, bundles that do not fit, and what power cuts need."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from edgeq.bundle.keys import KeyPair, make_keys
from edgeq.bundle.manifest import read_manifest, write_manifest
from edgeq.bundle.needs import DeviceNeeds
from edgeq.bundle.release import new_release
from edgeq.bundle.signature import sign_bundle
from edgeq.bundle.transport import pack
from edgeq.device import device_profile
from edgeq.families.modules import read_vlm
from edgeq.plan.memory import plan_memory

__all__ = ["NEEDED_BYTES", "write_material"]

NEEDED_BYTES: Final = 8_000_000_000
"""Of the bundle whose manifest asks for more than there is."""

_CONFIGS: Final = Path(__file__).resolve().parents[2] / "tests/golden/vlm-configs"
_IMAGES: Final = 60


def write_material(classifier: Path, retrieval: Path, images: Path, directory: Path, keys_directory: Path) -> None:
    """Write all of it.

    Args:
        classifier: a bundle with canaries.
        retrieval: a bundle of a small CLIP.
        images: a folder of PNG images to index.
        directory: an empty one, which comes into the machine.
        keys_directory: for the public key, in the machine as well.
    """
    keys = make_keys(directory / "team")
    keys_directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(keys.public, keys_directory / "team.public.pem")
    shutil.copytree(classifier, directory / "bundle")
    shutil.copytree(retrieval, directory / "finder")
    (directory / "images").mkdir()
    for image in sorted(images.glob("*.png"))[:_IMAGES]:
        shutil.copy(image, directory / "images")
    _signed(directory / "bundle", directory / "release1", keys, 1)
    needing = DeviceNeeds(memory_bytes=NEEDED_BYTES)
    _signed(directory / "bundle", directory / "large", keys, 2, needs=needing)
    _planned(directory / "bundle", directory / "planned")


def _signed(bundle: Path, made: Path, keys: KeyPair, number: int, needs: DeviceNeeds | None = None) -> None:
    shutil.copytree(bundle, made)
    if needs is not None:
        _write_manifest_again(made, needs)
    sign_bundle(made, keys.private, release=new_release("rehearsal", number))
    pack(made, made.with_name(f"{made.name}.edgeq.tar"))
    shutil.rmtree(made)


def _planned(bundle: Path, made: Path) -> None:
    """A bundle with the memory plan of LLaVA-1.5-7B in NF4; nothing of the model itself."""
    shutil.copytree(bundle, made)
    manifest = read_manifest(made)
    plan_memory(read_vlm(_CONFIGS / "llava-1.5-7b"), device_profile("orin-nx-16gb"), context=2048).save(
        made / "memory.json"
    )
    write_manifest(made, kind=manifest.kind, labels=manifest.labels, allowed=manifest.allowed, needs=manifest.needs)


def _write_manifest_again(bundle: Path, needs: DeviceNeeds) -> None:
    manifest = read_manifest(bundle)
    write_manifest(bundle, kind=manifest.kind, labels=manifest.labels, allowed=manifest.allowed, needs=needs)
