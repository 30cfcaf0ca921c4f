"""Both encoders behind many requests: batched, and texts seen before answered without their encoder.

An embedding is the same to float32 rounding whatever it is batched with: the last bits may differ, as a matrix product
sums in another order for another number of rows. A text that is still in the cache gets the same bits again.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import EdgeqError
from edgeq.runtime.retrieval.batching import Batcher, BatchFigures
from edgeq.runtime.retrieval.two_tower import TwoTowerModel
from edgeq.runtime.retrieval.vector_cache import VectorCache
from edgeq.runtime.scheduler.snapshot import CacheFigures

__all__ = ["CACHE_BYTES", "EmbeddedTexts", "RetrievalFigures", "RetrievalWorkers"]

CACHE_BYTES: Final = 64 << 20
"""Of texts seen lately, by default."""

_IMAGES_AT_ONCE: Final = 8

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddedTexts:
    """Texts on their way.

    Attributes:
        tokens: of all of them, with the special ones and what fills up to a fixed length.
        vectors: float32 [texts, dimension], rows of length one, in the order of the texts.
    """

    tokens: int
    vectors: Future[Vectors]


@dataclass(frozen=True)
class RetrievalFigures:
    """How the encoders stand.

    Attributes:
        texts, images: that were asked for since the start.
        text_batches, image_batches: what went through the encoders.
        cache: of texts.
    """

    texts: int
    images: int
    text_batches: BatchFigures
    image_batches: BatchFigures
    cache: CacheFigures


class RetrievalWorkers:
    """A two-tower model's encoders, each with a thread.

    Args:
        model: both encoders.
        queue: requests that may wait for each.
        cache_bytes: of texts seen lately; 0 keeps none.
    """

    def __init__(self, model: TwoTowerModel, *, queue: int, cache_bytes: int = CACHE_BYTES) -> None:
        self.dimension = model.settings.dimension
        self._model = model
        self._cache = VectorCache(cache_bytes)
        self._texts = Batcher(model.text.embed_ids, "edgeq-texts", queue=queue, lost=self._abandon)
        self._images = Batcher(
            lambda rows: model.image.embed_pixels(np.stack(rows)),
            "edgeq-images",
            queue=queue,
            most=_IMAGES_AT_ONCE,
            lost=self._abandon,
        )
        self._lock = Lock()
        self._asked_texts = self._asked_images = 0

    @property
    def alive(self) -> bool:
        """Whether both encoders still run."""
        return self._texts.alive and self._images.alive

    @property
    def figures(self) -> RetrievalFigures:
        """How they stand now."""
        return RetrievalFigures(
            self._asked_texts, self._asked_images, self._texts.figures, self._images.figures, self._cache.figures
        )

    def texts(self, texts: Sequence[str]) -> EmbeddedTexts:
        """Tokenize texts here, and have embedded those that are not known.

        Args:
            texts: one at least.

        Raises:
            BusyError: as many requests wait as may.
            ClosedError: the encoders were closed.
            InputError: a text cannot be tokenized.
        """
        ids = self._model.tokenizer.ids(texts)
        keys = [each.tobytes() for each in ids]
        known = self._cache.known(keys)
        missing = {key: each for key, each in zip(keys, ids, strict=True) if key not in known}

        def together(made: Vectors) -> Vectors:
            fresh = dict(zip(missing, made, strict=True))
            self._cache.keep(fresh)
            return np.stack([known[key] if key in known else fresh[key] for key in keys])

        if missing:
            vectors = self._texts.submit(list(missing.values()), together)
        else:
            vectors = Future()
            vectors.set_result(together(np.empty((0, self.dimension), np.float32)))
        with self._lock:
            self._asked_texts += len(texts)
        return EmbeddedTexts(sum(map(len, ids)), vectors)

    def images(self, images: Sequence[Image.Image]) -> Future[Vectors]:
        """The embeddings of images, float32 [images, dimension]; they are brought to the model's size here, and let go.

        Args:
            images: one at least, in any mode.

        Raises:
            BusyError: as many requests wait as may.
            ClosedError: the encoders were closed.
            ImageError: an image cannot be brought to the model's size.
        """
        future = self._images.submit([self._model.image.preprocess(image) for image in images])
        with self._lock:
            self._asked_images += len(images)
        return future

    def _abandon(self, error: EdgeqError) -> None:
        """One encoder has stopped for good; the other one computes on the same accelerator."""
        self._texts.abandon(error)
        self._images.abandon(error)

    def close(self, drain: bool = True) -> None:
        """Take no more; let those that wait have their turn, or not."""
        self._texts.close(drain)
        self._images.close(drain)
