"""Keys and values of what prompts begin with: a second question does not pay for reading image and conversation again.

What a token's keys and values are depends on all tokens before it and on nothing behind it (where attention is causal,
or an image is not cut), so they are the same for every prompt that begins with the same text and the same images. A
prompt is read in pieces, cut behind its images and where earlier prompts of the conversation ended: so what is kept has
the very bits that reading would give. Each piece is kept by itself, under a key that follows from the piece before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from edgeq.runtime.vlm.lru_cache import LruCache
from edgeq.runtime.vlm.prompt import Prompt

if TYPE_CHECKING:
    from edgeq.runtime.vlm.kv_cache import KeptRows

__all__ = ["PrefixCache", "piece_keys"]


def piece_keys(prompt: Prompt, digests: Sequence[bytes], image_token_id: int) -> tuple[bytes, ...]:
    """A key for each piece of a prompt, the last included.

    Args:
        prompt: with its cuts.
        digests: of its images.
        image_token_id: which tokens are the images'.
    """
    places = np.cumsum(prompt.ids == image_token_id)
    ends = np.cumsum([layout.tokens for layout in prompt.layouts], dtype=np.int64)
    found, key = [], b""
    for start, end in pairwise((0, *prompt.cuts, len(prompt.ids))):
        known = int(places[end - 1])
        images = digests[: int(np.searchsorted(ends, known, side="left")) + bool(known)]
        piece = np.ascontiguousarray(prompt.ids[start:end]).tobytes()
        key = hashlib.sha256(b"".join((key, piece, *images))).digest()
        found.append(key)
    return tuple(found)


class PrefixCache:
    """Keys and values of pieces."""

    def __init__(self, kept: LruCache) -> None:
        """Keep them in `kept`."""
        self._kept = kept

    def known(self, keys: Sequence[bytes]) -> list[KeptRows]:
        """Those of the first pieces, as many as are there without a gap."""
        found: list[KeptRows] = []
        for key in keys:
            kept = self._kept.get("prefixes", key)
            if kept is None:
                break
            found.append(kept)
        for key in reversed(keys[: len(found)]):  # a piece is of no use without those before it: they go last
            self._kept.touch("prefixes", key)
        return found

    def put(self, key: bytes, kept: KeptRows) -> None:
        """Keep the keys and values of a piece; they are not copied."""
        self._kept.put("prefixes", key, kept, kept.nbytes)
