"""Sign a bundle."""

from __future__ import annotations

from pathlib import Path

from edgeq.bundle.contents import MANIFEST, SIGNATURE, Manifest
from edgeq.bundle.copy import Report
from edgeq.bundle.keys import load_private
from edgeq.bundle.limits import DEFAULT_LIMITS, Limits
from edgeq.bundle.manifest_signature import sign_manifest
from edgeq.bundle.release import Release
from edgeq.bundle.verify import Trust, examine
from edgeq.files import atomic_write

__all__ = ["sign_bundle"]


def sign_bundle(
    directory: Path,
    private_key: Path,
    *,
    release: Release | None = None,
    limits: Limits = DEFAULT_LIMITS,
    report: Report | None = None,
) -> Path:
    """Check every file of a bundle, then sign its manifest; a signature that is there is replaced.

    With a release the manifest is written again, with the same files, and the bundle has another id from then on.

    Args:
        directory: the bundle.
        private_key: file of an Ed25519 key.
        release: which one it is; None leaves what the manifest says.
        limits: larger bundles are refused.
        report: called with the bytes checked and the bytes in all.

    Returns:
        The signature's file, `manifest.sig`.

    Raises:
        KeyFileError: the file holds no private key.
        BundleError: the bundle is not whole; it is not signed then.
        OutputError: the signature cannot be written.
    """
    key = load_private(private_key)
    whole = examine(directory, Trust(limits=limits), report=report)
    raw = whole.raw
    if release is not None:
        raw = (
            Manifest.model_validate({**whole.manifest.model_dump(), **release.model_dump()})
            .model_dump_json(indent=1)
            .encode()
        )
        (directory / SIGNATURE).unlink(missing_ok=True)  # it is that of another manifest from now on
        atomic_write(directory / MANIFEST, raw)
    atomic_write(directory / SIGNATURE, sign_manifest(raw, key))
    return directory / SIGNATURE
