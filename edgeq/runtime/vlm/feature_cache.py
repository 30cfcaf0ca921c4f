"""Features of images seen before, by the digest of their pixels: a second question does not pay for the encoder."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from PIL import Image

from edgeq.runtime.vlm.lru_cache import LruCache

if TYPE_CHECKING:
    from edgeq.runtime.vlm.piece import ImageStates

__all__ = ["FeatureCache", "image_digest"]


def image_digest(image: Image.Image) -> bytes:
    """SHA-256 of an image's mode, size and pixels, as it was decoded; 32 bytes."""
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    return digest.digest()


class FeatureCache:
    """What the language model is given of an image, where and as it takes it."""

    def __init__(self, kept: LruCache) -> None:
        """Keep them in `kept`."""
        self._kept = kept

    def get(self, digest: bytes) -> ImageStates | None:
        """Of the image with this digest, if it is there. It is not to be written to."""
        found: ImageStates | None = self._kept.get("features", digest)
        return found

    def put(self, digest: bytes, states: ImageStates) -> None:
        """Keep it."""
        self._kept.put("features", digest, states, states.nbytes)
