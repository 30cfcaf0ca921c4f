"""What a bundle says of its head: `detector.json` of a detector, `segmenter.json` of what gives each pixel a class."""

from __future__ import annotations

from typing import Final, Literal

from edgeq.artifact import Artifact
from edgeq.model.heads.detector import Head

__all__ = ["DETECTOR", "DetectorSettings"]

DETECTOR: Final = "detector.json"


class DetectorSettings(Artifact):
    """How a detector's outputs become detections.

    Attributes:
        head: of its graph.
    """

    otherwise = "does not say how a detector's outputs are read"
    made_by = "edgeq prepare"

    version: Literal["edgeq.detector/1"] = "edgeq.detector/1"
    head: Head
