"""Keys and values of a prompt up to the end of its image: a second question does not pay for reading the image again.

What a token's keys and values are depends on all tokens before it and on nothing behind it (where attention is causal),
so they are the same for every prompt that begins with the same text and the same image. A prompt is always read in the
same two pieces, cut behind the image: so what is kept has the very bits that reading would give.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeq.runtime.vlm.lru_cache import LruCache

if TYPE_CHECKING:
    import torch

__all__ = ["PrefixCache", "prefix_length"]


def prefix_length(ids: NDArray[np.int64], image_token_id: int) -> int:
    """Tokens up to the last of the image's, and never all of the prompt; 0 without an image.

    Args:
        ids: the prompt, int64 [n].
        image_token_id: which tokens are the image's.
    """
    places = np.flatnonzero(ids == image_token_id)
    return min(int(places[-1]) + 1, len(ids) - 1) if len(places) else 0


class PrefixCache:
    """Keys and values, [layers, 2, tokens, heads, width], by image and text."""

    def __init__(self, kept: LruCache) -> None:
        """Keep them in `kept`."""
        self._kept = kept

    def get(self, digest: bytes, ids: NDArray[np.int64]) -> torch.Tensor | None:
        """Those of the tokens `ids`, int64 [n], with the image of this digest, if they are there."""
        found: torch.Tensor | None = self._kept.get("prefixes", _key(digest, ids))
        return found

    def put(self, digest: bytes, ids: NDArray[np.int64], kept: torch.Tensor) -> None:
        """Keep the keys and values of a prefix.

        Args:
            digest: of its image.
            ids: its tokens, int64 [n].
            kept: [layers, 2, n, heads, width]; is not copied.
        """
        self._kept.put("prefixes", _key(digest, ids), kept, kept.nbytes)


def _key(digest: bytes, ids: NDArray[np.int64]) -> bytes:
    return hashlib.sha256(digest + np.ascontiguousarray(ids).tobytes()).digest()
