"""One image after another, in this process: what `edgeq watch` does with each of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from PIL import Image

from edgeq.runtime.asks import Ask
from edgeq.runtime.pair import MAX_NEW_TOKENS
from edgeq.runtime.stream import Done, Failed
from edgeq.service.forms import Classification
from edgeq.service.looking import classes_of
from edgeq.service.report import Report
from edgeq.service.served import Served

__all__ = ["Look", "Seen", "looker"]

_TOP: Final = 5

Seen = Report | Classification
"""A report of a vision-language model, or a classifier's classes."""

Look = Callable[[Image.Image], Seen]
"""From an image in mode RGB to what is on it; raises EdgeqError."""


def looker(served: Served, seconds: float, longest: int = MAX_NEW_TOKENS) -> Look:
    """What looks at images with an opened bundle.

    Args:
        served: the bundle.
        seconds: that an image may take.
        longest: tokens of an answer.
    """

    def report(image: Image.Image) -> Seen:
        assert served.talk is not None
        stream = served.talk.submit(Ask.about(image, served.terms.question, longest), seconds)
        last = deque(stream, maxlen=1).pop()
        if isinstance(last, Failed):
            raise last.error
        assert isinstance(last, Done)
        return served.reader(last.text, last.reason not in ("limit", "context"))

    def classify(image: Image.Image) -> Seen:
        assert served.seeing is not None
        logits = served.seeing.submit(image).result()
        return Classification(model=served.name, classes=classes_of(logits, served.manifest.labels, _TOP))

    return classify if served.talk is None else report
