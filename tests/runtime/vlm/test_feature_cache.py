"""What is kept of earlier requests, by the digest of their pixels, bounded in bytes."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from decoders import noise
from PIL import Image

from edgeq.runtime.vlm.feature_cache import FeatureCache, image_digest
from edgeq.runtime.vlm.lru_cache import LruCache
from edgeq.runtime.vlm.piece import ImageStates


def test_a_digest_is_that_of_the_pixels() -> None:
    image = noise(1, 6, 4)
    assert image_digest(image) == image_digest(image.copy())
    pixels = np.asarray(image).copy()
    pixels[3, 5, 2] ^= 1
    same_bytes = Image.frombytes("RGB", (4, 6), image.tobytes())
    digests = {image_digest(one) for one in (image, Image.fromarray(pixels), same_bytes)}
    assert len(digests) == 3, "one bit, or another shape of the same bytes, is another image"


def test_features_are_there_until_others_need_the_room() -> None:
    """Each of 10 x 8 numbers in FP16: 160 bytes."""
    cache = FeatureCache(kept := LruCache(400))
    values = [ImageStates(torch.full((10, 8), number).half()) for number in range(3)]
    cache.put(b"0", values[0])
    cache.put(b"1", values[1])
    assert kept.bytes == 320
    assert cache.get(b"0") is values[0]
    cache.put(b"2", values[2])
    assert cache.get(b"1") is None, "0 was used since"
    assert cache.get(b"0") is values[0]
    assert cache.get(b"2") is values[2]
    figures = kept.figures("features")
    assert (figures.entries, figures.bytes, figures.hits, figures.misses, figures.evicted) == (2, 320, 3, 1, 1)


def test_all_that_the_model_is_given_counts() -> None:
    """Places, two layers of deepstack, and cross-attention states: 160 + 2 x 160 + 40 bytes."""
    places = torch.zeros(10, 8).half()
    assert ImageStates(places, (places, places), torch.zeros(5, 4).half()).nbytes == 520


def test_what_is_larger_than_all_room_is_not_kept() -> None:
    kept = LruCache(100)
    kept.put("features", 1, "small", 40)
    kept.put("prefixes", 2, "large", 101)
    assert kept.get("prefixes", 2) is None
    assert kept.get("features", 1) == "small"


def test_it_shrinks_when_it_is_told_to_and_grows_again_to_what_it_was() -> None:
    kept = LruCache(100)
    for key in range(10):
        kept.put("features", key, key, 10)
    kept.bound(35)
    assert kept.bytes == 30
    assert [kept.get("features", key) for key in (6, 7, 8, 9)] == [None, 7, 8, 9]
    kept.bound(-5)
    assert kept.bytes == 0
    kept.put("features", 1, 1, 10)
    assert kept.bytes == 0
    kept.bound(10**9)
    for key in range(12):
        kept.put("prefixes", key, key, 10)
    assert kept.bytes == 100


def test_kinds_do_not_mix_and_a_key_is_there_once() -> None:
    kept = LruCache(100)
    kept.put("features", 1, "a", 30)
    kept.put("prefixes", 1, "b", 30)
    kept.put("features", 1, "c", 20)
    assert (kept.get("features", 1), kept.get("prefixes", 1), kept.bytes) == ("c", "b", 50)


@pytest.mark.parametrize("seed", range(3))
def test_against_a_list(seed: int) -> None:
    """The same by a list that is searched: the last is the most recently used."""
    draw, kept, limit = random.Random(seed), LruCache(100), 100
    entries: list[tuple[int, int]] = []
    for _ in range(400):
        key, size = draw.randrange(12), draw.randrange(1, 120)
        match draw.randrange(5):
            case 0:
                limit = draw.randrange(120)
                kept.bound(limit)
                limit = min(limit, 100)
            case 1 | 2:
                kept.put("features", key, (key, size), size)
                entries = [one for one in entries if one[0] != key] + ([(key, size)] if size <= limit else [])
            case _:
                found = [one for one in entries if one[0] == key]
                assert kept.get("features", key) == (found[0] if found else None)
                entries = [one for one in entries if one[0] != key] + found
        while sum(size for _, size in entries) > limit:
            entries.pop(0)
        assert kept.bytes == sum(size for _, size in entries) <= limit
        assert kept.figures("features").entries == len(entries)
