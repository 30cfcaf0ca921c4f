"""How many slots a budget has room for, reckoned by hand."""

from __future__ import annotations

import pytest
import torch
from vlm import TEXT, VISION

from edgeq.errors import InputError
from edgeq.plan.kv import kv_cache
from edgeq.runtime.scheduler.capacity import find_capacity
from edgeq.runtime.scheduler.request_memory import MemoryFigures, request_memory
from edgeq.runtime.vlm.kv_cache import KvShape

FIGURES = MemoryFigures(TEXT, VISION, kv_cache(TEXT), context=60, picture_tokens=4, picture_patches=5)
SHAPE = KvShape(layers=2, heads=2, width=16, dtype=torch.float32, device=torch.device("cpu"))
SLOT = 64 * (2 * 2 * 2 * 16 * 4)


@pytest.fixture
def beside() -> int:
    """All but keys and values that a request of 60 tokens with an image needs."""
    needs = request_memory(FIGURES, 60, 4, 0)
    assert needs.features == 4 * 64 * 2
    return needs.features + needs.prefill + needs.vision


def test_as_many_slots_as_fit(beside: int) -> None:
    for slots in (1, 2, 3, 4):
        room = find_capacity(FIGURES, SHAPE, slots * SLOT + beside, slots=4, caches=None)
        assert (room.slots, room.kv, room.requests) == (slots, slots * SLOT, beside)
    assert find_capacity(FIGURES, SHAPE, 4 * SLOT + beside - 1, slots=4, caches=None).slots == 3
    more = find_capacity(FIGURES, SHAPE, 100 * SLOT, slots=4, caches=None)
    assert (more.slots, more.requests) == (4, 96 * SLOT)


def test_too_little_for_one(beside: int) -> None:
    with pytest.raises(InputError, match=f"keys and values of 60 tokens take {SLOT:,} bytes, all else {beside:,}"):
        find_capacity(FIGURES, SHAPE, SLOT + beside - 1, slots=4, caches=None)


def test_caches_have_room_for_16_pictures_or_for_what_is_said() -> None:
    """A picture's 4 tokens: 2 layers x 2 x 2 heads x 16 x 4 bytes each, and 64 features in FP16."""
    assert find_capacity(FIGURES, SHAPE, 10**9, slots=4, caches=None).caches == 16 * 4 * (512 + 128)
    assert find_capacity(FIGURES, SHAPE, 10**9, slots=4, caches=7).caches == 7
