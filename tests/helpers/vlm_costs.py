"""What the tests of image costs share: published configs as descriptions, and sizes of images."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeq.families.modules import VlmDescription, read_vlm

__all__ = ["GOLDEN", "SIZES", "Pinpoints", "golden_vlm"]

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "vlm-configs"
_DRAWN = random.Random(0)
SIZES = [(_DRAWN.randint(20, 2500), _DRAWN.randint(20, 2500)) for _ in range(200)] + [(1, 1), (50, 2500), (2500, 50)]
"""Heights and widths in pixels."""


def golden_vlm(name: str, **changed: Any) -> VlmDescription:
    """A published model without its weights, some of its fields replaced; an encoder is replaced in the config, too."""
    found = replace(read_vlm(GOLDEN / name), **changed)
    return replace(found, config={**found.config, "vision_config": found.vision})


class Pinpoints:
    """What the LLaVA processors ask of their image processor."""

    def __init__(self, pinpoints: list[list[int]]) -> None:
        self.image_grid_pinpoints = pinpoints
