"""The two encoders: texts and images to embeddings of length one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.bundle.retrieval_settings import RetrievalSettings
from edgeq.engine.base import Engine
from edgeq.errors import EngineError
from edgeq.model.images.preprocess import Preprocess
from edgeq.runtime.retrieval.tokenizer import TextTokenizer

__all__ = ["MOST_IMAGES", "MOST_TEXTS", "ImageEncoder", "TextEncoder"]

MOST_TEXTS: Final = 64
"""In one run of the text graph."""

MOST_IMAGES: Final = 32
"""In one run of the vision graph."""

_FILL: Final = 0
"""A token behind the end of a text, which changes nothing there: it is not the largest id, nor the first end."""

_BUCKET: Final = 4
"""Texts whose lengths round up to the same multiple of it go together: a run of few texts costs nearly one of many."""


class TextEncoder:
    """Texts to embeddings.

    Args:
        engine: of the text graph: token ids int64 [n, length] to embeddings [n, dimension].
        tokenizer: of the model.
        settings: of the model.

    Raises:
        EngineError: the graph has more than one input or output.
    """

    def __init__(self, engine: Engine, tokenizer: TextTokenizer, settings: RetrievalSettings) -> None:
        self._tower = _Tower(engine, settings.dimension, "text")
        self._tokenizer = tokenizer

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The embedding of each text.

        Texts of nearly one length make a batch, the shorter ones filled up by a few places that change nothing.

        Args:
            texts: any number, none included.

        Returns:
            float32 [n, dimension], rows of length one, in the order of the texts.

        Raises:
            EngineError: the engine fails, or gives NaN, infinity, zeros or another shape.
            InputError: a text cannot be tokenized.
        """
        return self.embed_ids(self._tokenizer.ids(texts))

    def embed_ids(self, ids: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """The embedding of each text, given its tokens.

        Args:
            ids: of the tokenizer, int64 [length] each, any number of them.

        Returns:
            float32 [n, dimension], rows of length one, in the order of the texts.

        Raises:
            EngineError: the engine fails, or gives NaN, infinity, zeros or another shape.
        """
        found = np.empty((len(ids), self._tower.dimension), np.float32)
        for rows in _like_lengths([len(each) for each in ids], MOST_TEXTS):
            longest = len(ids[rows[-1]])
            batch = np.full((len(rows), longest), _FILL, np.int64)
            for place, row in enumerate(rows):
                batch[place, : len(ids[row])] = ids[row]
            found[rows] = self._tower.embed(batch)
        return found


class ImageEncoder:
    """Images to embeddings.

    Args:
        engine: of the vision graph: pixels float32 [n, 3, H, W] to embeddings [n, dimension].
        preprocess: of the model.
        settings: of the model.

    Raises:
        EngineError: the graph has more than one input or output.
    """

    def __init__(self, engine: Engine, preprocess: Preprocess, settings: RetrievalSettings) -> None:
        self._tower = _Tower(engine, settings.dimension, "vision")
        self._preprocess = preprocess

    def embed(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """The embedding of each image.

        Args:
            images: any number, none included, in any mode.

        Returns:
            float32 [n, dimension], rows of length one.

        Raises:
            EngineError: the engine fails, or gives NaN, infinity, zeros or another shape.
            ImageError: an image cannot be brought to the model's size.
        """
        found = np.empty((len(images), self._tower.dimension), np.float32)
        for start in range(0, len(images), MOST_IMAGES):
            batch = images[start : start + MOST_IMAGES]
            found[start : start + len(batch)] = self._tower.embed(np.stack(list(map(self._preprocess, batch))))
        return found

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """The pixels of one image, float32 [3, H, W]; raises ImageError for one that cannot be brought to the size."""
        return self._preprocess(image)

    def embed_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The embeddings of a batch.

        Args:
            pixels: float32 [n, 3, H, W], of `preprocess`, of any length but 0.

        Returns:
            float32 [n, dimension], rows of length one.

        Raises:
            EngineError: the engine fails, or gives NaN, infinity, zeros or another shape.
        """
        parts = [pixels[start : start + MOST_IMAGES] for start in range(0, len(pixels), MOST_IMAGES)]
        return np.concatenate([self._tower.embed(part) for part in parts])


class _Tower:
    """A graph of one input and one output.

    Args:
        engine: of the graph.
        dimension: of an embedding.
        name: for people.
    """

    def __init__(self, engine: Engine, dimension: int, name: str) -> None:
        if len(engine.inputs) != 1 or len(engine.outputs) != 1:
            raise EngineError(
                f"the {name} graph has the inputs {list(engine.inputs)} and the outputs {list(engine.outputs)}",
                expected="one of each",
                causes=("the bundle was made by another version of edgeq",),
            )
        self._engine = engine
        self.dimension = dimension
        self._name = name

    def embed(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Float32 [n, dimension] of a batch [n, ...], rows of length one."""
        made = self._engine.run({self._engine.inputs[0]: batch})[self._engine.outputs[0]]
        if made.shape != (len(batch), self.dimension):
            raise EngineError(
                f"the {self._name} graph gave {list(made.shape)} for a batch of {len(batch)}",
                expected=f"[{len(batch)}, {self.dimension}]",
                causes=("the graph and retrieval.json are of different models",),
            )
        return _normalized(made, self._name)


def _normalized(rows: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Rows of length one, float32 [n, dimension]; squares are summed in float64, where none is too large."""
    exact = rows.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise EngineError(
            f"the {name} graph gave an embedding of NaN, infinity or zeros",
            causes=("a layer overflows in FP16 on it, which it did not on the examples of `edgeq prepare`",),
            next_step="prepare the bundle again with examples like this one",
        )
    unit: NDArray[np.float32] = (exact / lengths).astype(np.float32)
    return unit


def _like_lengths(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Batches of at most `most` rows, of lengths that round up to the same multiple of `_BUCKET`; short ones first."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if (
            batches
            and len(batches[-1]) < most
            and -(-lengths[batches[-1][0]] // _BUCKET) == -(-lengths[row] // _BUCKET)
        ):
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
