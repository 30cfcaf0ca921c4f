"""How many slots a budget has room for, reckoned by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from vlm import TEXT, VISION

from edgeq.errors import InputError
from edgeq.families.base import Layout
from edgeq.plan.activations import step_bytes
from edgeq.plan.kv import kv_cache
from edgeq.runtime.scheduler.capacity import find_capacity, memory_beside_kv
from edgeq.runtime.scheduler.request_memory import MemoryFigures, request_memory
from edgeq.runtime.vlm.api import GREEDY
from edgeq.runtime.vlm.kv_cache import KvShape
from edgeq.runtime.vlm.prompt import Prompt
from edgeq.runtime.vlm.tokenize import TokenizedRequest

PICTURE = Layout(tokens=4, pictures=1, patches=5)
FIGURES = MemoryFigures(TEXT, VISION, kv_cache(TEXT), context=60, picture=PICTURE)
SHAPE = KvShape(layers=2, heads=2, width=16, dtype=torch.float32, device=torch.device("cpu"))
SLOT = 64 * (2 * 2 * 2 * 16 * 4)


@pytest.fixture
def beside() -> int:
    """All but keys and values that a request of 60 tokens with an image needs."""
    needs = request_memory(FIGURES, 60, (PICTURE,), 0)
    assert needs.features == 4 * 64 * 2
    return needs.features + needs.prefill + needs.vision


def test_as_many_slots_as_fit(beside: int) -> None:
    for slots in (1, 2, 3, 4):
        room = find_capacity(FIGURES, SHAPE, slots * SLOT + beside, slots=4, caches=None)
        assert (room.slots, room.kv, room.requests) == (slots, slots * SLOT, beside)
    assert find_capacity(FIGURES, SHAPE, 4 * SLOT + beside - 1, slots=4, caches=None).slots == 3
    more = find_capacity(FIGURES, SHAPE, 100 * SLOT, slots=4, caches=None)
    assert (more.slots, more.requests) == (4, 96 * SLOT)


def test_the_pool_of_cuda_graphs_is_taken_off_and_may_cost_a_slot(beside: int) -> None:
    pools = {count: step_bytes(TEXT, count, 60, 0, 5_000_000) for count in range(1, 6)}
    assert pools[5] - pools[4] > 5_000_000, "from five slots on a whole layer is unpacked into it"
    fits = 5 * SLOT + pools[5] + beside
    room = find_capacity(FIGURES, SHAPE, fits, slots=6, caches=None, captured=True, unpacked=5_000_000)
    assert (room.slots, room.graphs, room.requests) == (5, pools[5], beside)
    less = find_capacity(FIGURES, SHAPE, fits - 1, slots=6, caches=None, captured=True, unpacked=5_000_000)
    assert (less.slots, less.graphs) == (4, pools[4])
    with pytest.raises(InputError, match=f"all else {beside + pools[1]:,}"):
        find_capacity(FIGURES, SHAPE, SLOT + beside + pools[1] - 1, slots=6, caches=None, captured=True)


def test_too_little_for_one(beside: int) -> None:
    with pytest.raises(InputError, match=f"keys and values of 60 tokens take {SLOT:,} bytes, all else {beside:,}"):
        find_capacity(FIGURES, SHAPE, SLOT + beside - 1, slots=4, caches=None)


def test_caches_have_room_for_16_pictures_or_for_what_is_said() -> None:
    """A picture's 4 tokens: 2 layers x 2 x 2 heads x 16 x 4 bytes each, and 64 features in FP16."""
    assert find_capacity(FIGURES, SHAPE, 10**9, slots=4, caches=None).caches == 16 * 4 * (512 + 128)
    assert find_capacity(FIGURES, SHAPE, 10**9, slots=4, caches=7).caches == 7


def test_what_cross_attention_looks_at_is_in_every_slot_and_every_prefix() -> None:
    """Two layers of 7 states, 2 x 2 heads x 16 numbers of 4 bytes, beside the tokens; features are the states' then."""
    shape = replace(SHAPE, cross=(1, 3), states=7)
    figures = replace(FIGURES, states=7)
    crossing = 2 * 7 * 2 * 2 * 16 * 4
    room = find_capacity(figures, shape, 10**9, slots=4, caches=None)
    assert room.kv == 4 * (SLOT + crossing)
    assert room.caches == 16 * (4 * 512 + crossing + 7 * 64 * 2)


def test_a_request_is_reckoned_by_its_images() -> None:
    """Not by the usual one: two images of other sizes, one of three pictures."""
    layouts = (Layout(4, 1, 5), Layout(12, 3, 5))
    ids = np.zeros(30, np.int64)
    question = TokenizedRequest(Prompt(ids, ids, layouts), (), 8, 8, GREEDY, ())
    expected = request_memory(FIGURES, 30, layouts, 8)
    assert memory_beside_kv(FIGURES, question) == replace(expected, kv=0)
    assert expected.features == 16 * 64 * 2
