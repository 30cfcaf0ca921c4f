"""Why a bundle is refused: one class for each reason, so that a caller can tell a damaged copy from a forged one.

ArtifactError
└── BundleError               a bundle that is refused
    ├── ManifestError         no manifest, or not one of this version
    ├── UnsafeNameError       a name that could lead out of the bundle, or cannot be a file's
    ├── LengthError           larger than a limit, or of another length than listed
    ├── IrregularFileError    something that is no plain file
    │   └── LinkError         a symbolic or a hard link
    ├── MissingFileError      a listed file is not there
    ├── UnlistedFileError     a file is there that is not listed
    ├── DigestError           a file's bytes are not those listed
    ├── SignatureError        the signature is not one of this manifest
    │   ├── UnsignedError     there is none, and one is required
    │   └── UnknownKeyError   it was made with a key that is not trusted here
    │       └── RevokedKeyError  it was made with a key that must not be trusted any more
    ├── ReleaseError          it is older than what was installed before
    │   └── ExpiredError      its time is over
    ├── KeyListError          a list of keys is none, or not signed as it must be
    ├── DeviceError           the bundle needs what this device does not have
    ├── KeyFileError          a file holds no key of the kind needed
    └── TransportError        the file is no transport file of a bundle
        ├── TruncatedError    it ends too early
        └── DuplicateFileError  a name comes twice
"""

from __future__ import annotations

from edgeq.errors import ArtifactError

__all__ = [
    "BundleError",
    "DeviceError",
    "DigestError",
    "DuplicateFileError",
    "ExpiredError",
    "IrregularFileError",
    "KeyFileError",
    "KeyListError",
    "LengthError",
    "LinkError",
    "ManifestError",
    "MissingFileError",
    "ReleaseError",
    "RevokedKeyError",
    "SignatureError",
    "TransportError",
    "TruncatedError",
    "UnknownKeyError",
    "UnlistedFileError",
    "UnsafeNameError",
    "UnsignedError",
]


class BundleError(ArtifactError):
    """A bundle, its transport file or a key to it is refused."""


class ManifestError(BundleError):
    """There is no manifest, or it is not one of this version."""


class UnsafeNameError(BundleError):
    """A name could lead out of the bundle, or cannot be a file's name in one."""


class LengthError(BundleError):
    """Something is larger than a limit, or has another length than the manifest lists."""


class IrregularFileError(BundleError):
    """Something is neither a plain file nor, in a directory, a directory."""


class LinkError(IrregularFileError):
    """Something is a symbolic or a hard link."""


class MissingFileError(BundleError):
    """A listed file is not there."""


class UnlistedFileError(BundleError):
    """A file is there that the manifest does not list."""


class DigestError(BundleError):
    """A file's bytes are not those that the manifest lists."""


class SignatureError(BundleError):
    """The signature is not one of this manifest."""


class UnsignedError(SignatureError):
    """There is no signature, and one is required."""


class UnknownKeyError(SignatureError):
    """The signature was made with a key that is not among the trusted ones."""


class RevokedKeyError(UnknownKeyError):
    """The signature was made with a key that was trusted once and must not be any more."""


class ReleaseError(BundleError):
    """The bundle is older than one that was installed before, or does not say which release it is."""


class ExpiredError(ReleaseError):
    """The bundle is not to be installed any more."""


class KeyListError(BundleError):
    """A list of keys is none, or is not signed by those who may."""


class DeviceError(BundleError):
    """The bundle needs what this device does not have."""


class KeyFileError(BundleError):
    """A file does not hold a key of the kind that is needed."""


class TransportError(BundleError):
    """A file is not the transport file of a bundle."""


class TruncatedError(TransportError):
    """A transport file ends too early."""


class DuplicateFileError(TransportError):
    """A name comes twice in a transport file."""
