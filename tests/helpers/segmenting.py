"""What gives each pixel a class, without a network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from running import classifying

from edgeq.model.heads.masks import MaskHead
from edgeq.model.images.preprocess import Preprocess
from edgeq.runtime.pixel_answers import Segmenter
from edgeq.service.routes.vision_worker import VisionWorker
from edgeq.service.served_model import ServedModel


class HalvesEngine:
    """An engine without a network: simulated. The left half is class 0, the right one the class of the brightness."""

    inputs: tuple[str, ...] = ("pixels",)
    outputs: tuple[str, ...] = ("aux", "logits")

    def run(self, feeds: Any, outputs: Any = None) -> dict[str, Any]:
        assert tuple(outputs) == ("logits",)
        scores = np.zeros((1, 3, 2, 4), np.float32)
        scores[:, 0, :, :2] = 1.0
        scores[:, 1 + int(feeds["pixels"].mean() > 0.5), :, 2:] = 1.0
        return {"logits": scores}


def segmenting() -> ServedModel:
    """Its bundle, opened."""
    preprocess = Preprocess(4, 8, resize=(4, 8), resample=0, center_crop=False, scale=1 / 255)
    segmenter = Segmenter(HalvesEngine(), MaskHead(output="logits", channels=3, height=4, width=8), preprocess)
    served = classifying(("road", "sky", "tree"))
    manifest = served.manifest.model_copy(update={"task": "segment"})
    return replace(served, manifest=manifest, seeing=VisionWorker(segmenter, queue=2))
