"""What embeds: the one thing that a catalog asks of a network, and a check of what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import EngineError, InputError

__all__ = ["ImageEmbedder", "Shape", "batch_that_fits", "embedded", "shape_of"]

_GREY: Final = (127, 127, 127)
_SIDE: Final = 64


class ImageEmbedder(Protocol):
    """Turns images into vectors."""

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """The pixels of one image of mode RGB, float32 [3, H, W]; called from several threads at once.

        Raises:
            ImageError: this image cannot be used; it is noted and passed over.
        """
        ...

    def embed(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The vectors of a batch, float32 [n, d], of any length; called from one thread.

        Args:
            pixels: float32 [n, 3, H, W].
        """
        ...


@dataclass(frozen=True)
class Shape:
    """What goes into an embedder and comes out of it.

    Attributes:
        height: of the pixels.
        width: of the pixels.
        dimension: of a vector.
    """

    height: int
    width: int
    dimension: int

    @property
    def image_bytes(self) -> int:
        """The bytes of one image's pixels."""
        return 3 * self.height * self.width * np.dtype(np.float32).itemsize


def shape_of(embedder: ImageEmbedder) -> Shape:
    """What an embedder takes and gives, found with one grey image.

    Raises:
        EngineError: it gives arrays of another form or type.
    """
    pixels = embedder.preprocess(Image.new("RGB", (_SIDE, _SIDE), _GREY))
    if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.dtype != np.float32:
        raise EngineError(
            f"an image was preprocessed to {pixels.dtype} {list(pixels.shape)}", expected="float32 [3, height, width]"
        )
    vectors = embedder.embed(pixels[np.newaxis])
    if vectors.ndim != 2 or len(vectors) != 1 or vectors.shape[1] < 1:
        raise EngineError(f"one image was embedded as {list(vectors.shape)}", expected="[1, dimension]")
    return Shape(pixels.shape[1], pixels.shape[2], vectors.shape[1])


def embedded(
    embedder: ImageEmbedder, pixels: NDArray[np.float32], dimension: int
) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    """The vectors of a batch, each brought to length 1.

    Args:
        embedder: to ask.
        pixels: float32 [n, 3, H, W].
        dimension: of a vector.

    Returns:
        float16 [n, d], and bool [n]: whether the vector is one, that is finite and not zero.

    Raises:
        EngineError: it gives an array of another form.
    """
    vectors = np.asarray(embedder.embed(pixels), np.float32)
    if vectors.shape != (len(pixels), dimension):
        raise EngineError(
            f"{len(pixels)} images were embedded as {list(vectors.shape)}", expected=f"[{len(pixels)}, {dimension}]"
        )
    with np.errstate(all="ignore"):
        lengths = np.sqrt(np.sum(np.square(vectors, dtype=np.float64), axis=1, keepdims=True))
        good = np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)
        return (vectors / lengths).astype(np.float16), good


def batch_that_fits(batch: int, image_bytes: int, memory: int) -> int:
    """Images in a batch: as many as were asked for, or as there is memory for; at least one.

    Two batches are held at once: one is embedded while the next is decoded.

    Args:
        batch: images asked for.
        image_bytes: of one image's pixels.
        memory: bytes that pixels may take.

    Raises:
        InputError: a batch of less than one image was asked for.
    """
    if batch < 1:
        raise InputError(f"a batch of {batch} images was asked for, expected at least 1")
    return max(1, min(batch, memory // (2 * image_bytes)))
