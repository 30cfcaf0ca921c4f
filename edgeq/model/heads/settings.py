"""What a bundle says of its head: `detector.json` of a detector, `segmenter.json` of what gives each pixel a class."""

from __future__ import annotations

from typing import Final, Literal

from edgeq.artifact import Artifact
from edgeq.model.heads.detector import Head
from edgeq.model.heads.masks import MaskHead

__all__ = ["DETECTOR", "SEGMENTER", "DetectorSettings", "SegmenterSettings"]

DETECTOR: Final = "detector.json"
SEGMENTER: Final = "segmenter.json"


class DetectorSettings(Artifact):
    """How a detector's outputs become detections.

    Attributes:
        head: of its graph.
    """

    otherwise = "does not say how a detector's outputs are read"
    made_by = "edgeq prepare"

    version: Literal["edgeq.detector/1"] = "edgeq.detector/1"
    head: Head


class SegmenterSettings(Artifact):
    """How an output becomes a class for each pixel.

    Attributes:
        head: of the graph.
    """

    otherwise = "does not say how a class for each pixel is read"
    made_by = "edgeq prepare"

    version: Literal["edgeq.segmenter/1"] = "edgeq.segmenter/1"
    head: MaskHead
