"""How large a bundle may be: bounds that are checked before anything is read, so that a lie costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULT_LIMITS", "Limits"]

_KIB: Final = 1 << 10
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


@dataclass(frozen=True)
class Limits:
    """The largest bundle that is accepted.

    Attributes:
        manifest_bytes, signature_bytes: of `manifest.json` and `manifest.sig`.
        name_bytes: of a file's name with its directories, in UTF-8.
        files: how many the manifest may list.
        file_bytes, total_bytes: of one file and of all. A model of 70 billion parameters in FP16 takes 140 GB.
    """

    manifest_bytes: int = 16 * _MIB
    signature_bytes: int = 4 * _KIB
    name_bytes: int = 1 * _KIB
    files: int = 10_000
    file_bytes: int = 128 * _GIB
    total_bytes: int = 256 * _GIB


DEFAULT_LIMITS: Final = Limits()
