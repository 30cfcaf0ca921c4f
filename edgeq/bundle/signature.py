"""Sign a bundle."""

from __future__ import annotations

from pathlib import Path

from edgeq.bundle.contents import SIGNATURE
from edgeq.bundle.copy import Report
from edgeq.bundle.keys import load_private
from edgeq.bundle.limits import DEFAULT_LIMITS, Limits
from edgeq.bundle.manifest_signature import sign_manifest
from edgeq.bundle.verify import Trust, examine
from edgeq.files import atomic_write

__all__ = ["sign_bundle"]


def sign_bundle(
    directory: Path, private_key: Path, *, limits: Limits = DEFAULT_LIMITS, report: Report | None = None
) -> Path:
    """Check every file of a bundle, then sign its manifest; a signature that is there is replaced.

    Args:
        directory: the bundle.
        private_key: file of an Ed25519 key.
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
    atomic_write(directory / SIGNATURE, sign_manifest(whole.raw, key))
    return directory / SIGNATURE
