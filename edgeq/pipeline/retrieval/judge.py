"""INT8 texts against FP16 images beside FP16 texts against the same: embedded once, asked as often as there is a graph.

A graph is made without the pairs, and the judge sees two at most: the whole text encoder in INT8, and, where that was
refused, one with some layers in floating point, which calibration captions chose. Each upper end of a drop is exceeded
with a probability of 2.5 % at most, so that of a text encoder which loses more than is allowed, one of the two is kept
with 5 % at most.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.bundle.retrieval_settings import RetrievalSettings
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ImageError
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.stages import Progress, counter
from edgeq.quality.tasks.pairs import Pairs
from edgeq.quality.tasks.registry import RETRIEVAL
from edgeq.quality.tasks.retrieval import Embedded
from edgeq.quality.tasks.retrieval_gate import RetrievalBounds, RetrievalGate, decide_retrieval
from edgeq.runtime.retrieval.encoders import ImageEncoder, TextEncoder
from edgeq.runtime.retrieval.tokenizer import TextTokenizer

__all__ = ["Encoders", "RetrievalJudge", "embed_images"]

_EMBEDDED = 64


@dataclass(frozen=True)
class Encoders:
    """Opens graphs of a model in ONNX Runtime.

    Attributes:
        settings: of the model.
        tokenizer: texts to token ids.
        preprocess: images to pixels.
        threads: of one operator; None takes every processor there is.
    """

    settings: RetrievalSettings
    tokenizer: TextTokenizer
    preprocess: Preprocess
    threads: int | None

    def text(self, graph: Path | bytes) -> TextEncoder:
        """A text graph; its memory is taken tensor by tensor, as lengths differ from run to run."""
        engine = OnnxRuntimeEngine(graph, threads=self.threads, memory_pattern=False)
        return TextEncoder(engine, self.tokenizer, self.settings)

    def vision(self, graph: Path) -> ImageEncoder:
        """A vision graph."""
        return ImageEncoder(OnnxRuntimeEngine(graph, threads=self.threads), self.preprocess, self.settings)


def embed_images(
    encoder: ImageEncoder, images: ImageSet, advance: Callable[[int], None], *, skip: bool = False
) -> NDArray[np.float32]:
    """Embeddings of a set, float32 [n, dimension], some images at a time.

    Args:
        encoder: of the images.
        images: in whose order the rows are.
        advance: called with the number of images just embedded.
        skip: leave out those that cannot be read, as long as there is one that can.

    Raises:
        ImageError: one cannot be read, or with `skip` none can.
    """
    items = images.items
    found: list[NDArray[np.float32]] = []
    for start in range(0, len(items), _EMBEDDED):
        pictures: list[Image.Image] = []
        for item in items[start : start + _EMBEDDED]:
            with suppress(*((ImageError,) if skip else ())):
                pictures.append(images.read(item))
        found.append(encoder.embed(pictures))
        advance(len(items[start : start + _EMBEDDED]))
    rows = np.concatenate(found)
    if not len(rows):
        raise ImageError(f"no image of {images.path} can be read")
    return rows


class RetrievalJudge:
    """Pairs, embedded by the reference: FP16 texts and FP16 images.

    Args:
        pairs: that are judged by.
        texts: the FP16 text encoder.
        images: the FP16 vision encoder.
        report: told of images embedded.
        int8_images: a vision encoder in INT8, for a figure beside; None for none.
    """

    def __init__(
        self,
        pairs: Pairs,
        texts: TextEncoder,
        images: ImageEncoder,
        report: Progress,
        int8_images: ImageEncoder | None = None,
    ) -> None:
        self._pairs = pairs
        self._images = embed_images(images, pairs.images, counter(report, "judge", len(pairs.images)))
        self._texts = texts.embed(pairs.captions)
        self._int8_images: NDArray[np.float32] | None = None
        if int8_images is not None:
            advance = counter(report, "judge: INT8 images", len(pairs.images))
            self._int8_images = embed_images(int8_images, pairs.images, advance)

    def decide(self, texts: TextEncoder, bounds: RetrievalBounds) -> RetrievalGate:
        """What another text encoder finds among the same images, held against the bounds."""
        candidate = texts.embed(self._pairs.captions)
        found = Embedded(self._texts, candidate, self._images, self._int8_images)
        return decide_retrieval(RETRIEVAL.compare(self._pairs, found), bounds)
