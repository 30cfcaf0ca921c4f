"""One image after another, in this process: what `edgeq watch` does with each of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from PIL import Image

from edgeq.errors import ArtifactError
from edgeq.runtime.vlm.api import GenerationRequest
from edgeq.runtime.vlm.constrained.schema import schema_text
from edgeq.runtime.vlm.model import MAX_NEW_TOKENS
from edgeq.runtime.vlm.stream import Done, Failed
from edgeq.service.report import Report, report_question, report_schema
from edgeq.service.routes.pixel_routes import detected, segmented
from edgeq.service.routes.schemas import ClassifyResponse, DetectResponse, SegmentResponse
from edgeq.service.routes.vision_routes import classes_of
from edgeq.service.served_model import ServedModel

__all__ = ["Look", "Seen", "watch_inference"]

_TOP: Final = 5
_SCORE: Final = 0.25
_MOST: Final = 100

Seen = Report | ClassifyResponse | DetectResponse | SegmentResponse
"""A report of a vision-language model, a classifier's classes, a detector's objects, or a class for each pixel."""

Look = Callable[[Image.Image], Seen]
"""From an image in mode RGB to what is on it; raises EdgeqError."""


def watch_inference(served: ServedModel, seconds: float, max_tokens: int = MAX_NEW_TOKENS) -> Look:
    """What looks at images with an opened bundle.

    Args:
        served: the bundle.
        seconds: that an image may take.
        max_tokens: tokens of an answer.

    Raises:
        ArtifactError: it says nothing of an image.
    """
    if served.retrieval is not None:
        raise ArtifactError(
            f"{served.name} embeds texts and images for retrieval: it says nothing of an image",
            expected="the bundle of a classifier or a vision-language model",
            next_step="edgeq index takes what has come into a directory into a catalog",
        )

    def report(image: Image.Image) -> Seen:
        assert served.talk is not None
        ask = GenerationRequest.about(image, report_question(served.phrases), max_tokens)
        schema = report_schema(served.phrases)
        ask = ask if schema is None else replace(ask, schema=schema_text(schema))
        stream = served.talk.submit(ask, seconds)
        last = deque(stream, maxlen=1).pop()
        if isinstance(last, Failed):
            raise last.error
        assert isinstance(last, Done)
        return served.reader(last.text, last.reason not in ("limit", "context"))

    def see(image: Image.Image) -> Seen:
        assert served.seeing is not None
        found, labels = served.seeing.submit(image).result(), served.manifest.labels
        if served.manifest.task == "detect":
            return DetectResponse(model=served.name, objects=detected(found.above(_SCORE), labels, _MOST))
        if served.manifest.task == "segment":
            return segmented(served.name, found, labels)
        return ClassifyResponse(model=served.name, classes=classes_of(found, labels, _TOP))

    return see if served.talk is None else report
