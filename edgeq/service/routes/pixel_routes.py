"""`POST /v1/detect` and `/v1/segment`: where on an image something is."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from edgeq.model.heads.boxes import Detections
from edgeq.service.routes.schemas import (
    Box,
    DetectedObject,
    DetectRequest,
    DetectResponse,
    Keypoint,
    PosedObject,
    SegmentedClass,
    SegmentRequest,
    SegmentResponse,
)
from edgeq.service.routes.vision_routes import VisionRoutes
from edgeq.service.served_model import ServedModel

__all__ = ["PixelRoutes", "detected", "segmented"]

_BYTE = 256


class PixelRoutes:
    """Looks at images for what is where.

    Args:
        served: the bundle of a detector, or of what gives each pixel a class; of any other, both answers are 404.
        looking: looks at an image.
    """

    def __init__(self, served: ServedModel, looking: VisionRoutes) -> None:
        self._served, self._looking = served, looking

    async def detect(self, request: Request) -> Response:
        """Find objects on an image."""
        asked, found = await self._looking.look(request, self._looking.seeing("detect", "objects"), DetectRequest)
        objects = detected(found.above(asked.score), self._served.manifest.labels, asked.top)
        return _json(DetectResponse(model=self._served.name, objects=objects).model_dump_json())

    async def segment(self, request: Request) -> Response:
        """Give each pixel of an image a class."""
        _, found = await self._looking.look(request, self._looking.seeing("segment", "masks"), SegmentRequest)
        return _json(segmented(self._served.name, found, self._served.manifest.labels).model_dump_json())


def detected(found: Detections, labels: Sequence[str], top: int) -> tuple[DetectedObject, ...]:
    """The `top` likeliest detections.

    Args:
        found: the likeliest first.
        labels: by class; empty where they have no names.
        top: how many.
    """
    return tuple(_object(found, place, labels) for place in range(min(top, len(found))))


def _object(found: Detections, place: int, labels: Sequence[str]) -> DetectedObject:
    number = int(found.classes[place])
    left, top, right, bottom = found.boxes[place].tolist()
    told: dict[str, Any] = {
        "index": number,
        "label": labels[number] if number < len(labels) else None,
        "score": float(found.scores[place]),
        "box": Box(left=left, top=top, right=right, bottom=bottom),
    }
    if found.keypoints is None:
        return DetectedObject(**told)
    points = found.keypoints[place].tolist()
    return PosedObject(**told, keypoints=tuple(Keypoint(x=x, y=y, visibility=sure) for x, y, sure in points))


def segmented(model: str, found: NDArray[np.uint16], labels: Sequence[str]) -> SegmentResponse:
    """A class for each pixel as an answer.

    Args:
        model: its name.
        found: uint16 [height, width].
        labels: by class; empty where they have no names. Of a single one, background is class 0 and it is class 1.
    """
    names = ("background", labels[0]) if len(labels) == 1 else labels
    numbers, counts = np.unique(found, return_counts=True)
    classes = tuple(
        SegmentedClass(index=int(number), label=names[number] if number < len(names) else None, pixels=int(count))
        for number, count in zip(numbers, counts, strict=True)
    )
    height, width = found.shape
    return SegmentResponse(model=model, width=width, height=height, classes=classes, mask=_png(found))


def _png(found: NDArray[np.uint16]) -> str:
    """A grey PNG of class numbers, 8 bits each where that is enough, else 16; in base64."""
    file = io.BytesIO()
    small = int(found.max(initial=0)) < _BYTE
    Image.fromarray(found.astype(np.uint8) if small else found).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
