"""The calibration cache in a bundle: ranges found in the workshop, under the header of the release that will read them.

A bundle does not know which TensorRT will build from it. Its cache is written for JetPack 6, so that NVIDIA's own tools
there take it as it is; a device with another release replaces the header. The ranges are the workshop's either way:
nothing that a release of TensorRT decided is in them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from edgeq.tensorrt.calibration_cache import CalibrationCache
from edgeq.tensorrt.version import Version

__all__ = ["CALIBRATION_CACHE", "WRITTEN_FOR", "bundled_cache"]

CALIBRATION_CACHE: Final = "calibration.cache"
"""The file's name in a bundle."""

WRITTEN_FOR: Final[Version] = (10, 3, 0)
"""The release of JetPack 6."""


def bundled_cache(bundle: Path, version: Version) -> CalibrationCache:
    """A bundle's cache with the header of `version`.

    Raises:
        ArtifactError: there is none, it is damaged, or `version` has no calibrators.
    """
    return replace(CalibrationCache.load(bundle / CALIBRATION_CACHE), version=version)
