"""`POST /v1/classify` and `/v1/embed`: what a bundle's vision graph gives for an image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from edgeq.runtime.vision_graph import rank_classes
from edgeq.runtime.vlm.api import EncodedImage
from edgeq.service.http.connection import while_connected
from edgeq.service.http.errors import RequestError
from edgeq.service.http.request_body import RequestBodies
from edgeq.service.routes.image_input import ImageInputs, ImageSource
from edgeq.service.routes.schemas import (
    Class,
    ClassifyRequest,
    ClassifyResponse,
    DetectRequest,
    Embedding,
    Embeddings,
    EmbedRequest,
    SegmentRequest,
)
from edgeq.service.routes.vision_worker import VisionWorker
from edgeq.service.served_model import ServedModel

__all__ = ["VisionRoutes", "classes_of"]

_Form = TypeVar("_Form", ClassifyRequest, EmbedRequest, DetectRequest, SegmentRequest)

_WHOSE: Final = {
    None: "a classifier's or an encoder's",
    "detect": "a detector's",
    "segment": "of a class for each pixel",
}


class VisionRoutes:
    """Looks at images.

    Args:
        served: a classifier's or an encoder's bundle; of any other, both answers are 404.
        pictures: opens images.
        intake: reads bodies.
        seconds: from a request's header to its answer.
    """

    def __init__(self, served: ServedModel, pictures: ImageInputs, intake: RequestBodies, seconds: float) -> None:
        self._served = served
        self._pictures = pictures
        self._intake = intake
        self._seconds = seconds

    async def classify(self, request: Request) -> Response:
        """Name an image."""
        asked, logits = await self.look(request, self.seeing(None, "classes"), ClassifyRequest)
        classes = classes_of(logits, self._served.manifest.labels, asked.top)
        return _json(ClassifyResponse(model=self._served.name, classes=classes).model_dump_json())

    async def embed(self, request: Request) -> Response:
        """Turn an image into a vector; RequestError where the bundle's graph ends in classes."""
        if self._served.retrieval is not None:
            raise RequestError(
                404, "no_vectors", "this bundle's vectors, of texts and of images, are at /v1/embeddings"
            )
        seeing = self.seeing(None, "vectors")
        if self._served.manifest.labels:
            raise RequestError(404, "no_vectors", "this bundle's graph ends in classes: it gives no vector of an image")
        asked, vector = await self.look(request, seeing, EmbedRequest)
        length = float(np.linalg.norm(vector)) if asked.normalize else 1.0
        values = tuple(float(value) for value in vector / (length or 1.0))
        return _json(Embeddings(model=self._served.name, data=(Embedding(embedding=values),)).model_dump_json())

    async def look(self, request: Request, seeing: VisionWorker, form: type[_Form]) -> tuple[_Form, Any]:
        """What is asked, and what the graph gives for the image.

        Args:
            request: with the image.
            seeing: from `seeing`.
            form: of the body.
        """
        with self._intake.room(request):
            asked = await self._intake.parse(request, form)
            self._served.take_name(request, asked.model)
            use = partial(self._pictures.use, (ImageSource(asked.image, "image"),), partial(_submit, seeing))
            future = await while_connected(request.receive, use)
        return asked, await while_connected(request.receive, partial(seeing.wait, future, self._left(request)))

    def seeing(self, task: str | None, what: str) -> VisionWorker:
        """What looks at images, where the bundle is for a task; RequestError 404 where it is for another.

        Args:
            task: as in the manifest; None for classes and vectors.
            what: it gives, for the message.
        """
        manifest = self._served.manifest
        if self._served.seeing is None:
            raise RequestError(404, f"no_{what}", f"this bundle is a {manifest.kind} model's: it gives no {what}")
        if manifest.task != task:
            where = "" if manifest.task is None else f", ask at /v1/{manifest.task}"
            raise RequestError(404, f"no_{what}", f"this bundle gives no {what}: it is {_WHOSE[manifest.task]}{where}")
        return self._served.seeing

    def _left(self, request: Request) -> float:
        start: float = request.scope["edgeq.start"]
        return start + self._seconds - time.monotonic()


def classes_of(logits: NDArray[np.float32], labels: Sequence[str], top: int) -> tuple[Class, ...]:
    """The `top` likeliest classes; of equal logits the first class goes first.

    Args:
        logits: [classes].
        labels: by logit; empty where they have no names.
        top: how many.
    """
    return tuple(Class(index=one.index, label=one.label, score=one.score) for one in rank_classes(logits, labels, top))


def _submit(seeing: VisionWorker, images: tuple[EncodedImage, ...]) -> Future[Any]:
    (image,) = images
    return seeing.submit(image.decoded())


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
