"""How many slots memory has room for, and what is left beside their keys and values.

The KV cache is allocated whole when the runtime is opened, and so is the pool of the decode steps' CUDA graphs: they
cannot run out later, and are no part of what a request needs from then on. What is left is for features and activations
of the requests, and for the caches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from edgeq.errors import InputError
from edgeq.plan.activations import step_bytes
from edgeq.runtime.scheduler.request_memory import MemoryFigures, RequestMemory, request_memory

if TYPE_CHECKING:
    from edgeq.runtime.vlm.kv_cache import KvShape
    from edgeq.runtime.vlm.tokenize import TokenizedRequest

__all__ = ["Capacity", "find_capacity", "memory_beside_kv"]

_PICTURES: Final = 16


@dataclass(frozen=True)
class Capacity:
    """Where the bytes go.

    Attributes:
        slots: requests at once.
        kv: of all slots.
        graphs: of the pool of CUDA graphs; 0 where steps are not captured.
        requests: bytes for requests and caches beside it.
        caches: of these, what the caches may have at most.
    """

    slots: int
    kv: int
    graphs: int
    requests: int
    caches: int


def find_capacity(
    figures: MemoryFigures,
    shape: KvShape,
    budget: int,
    *,
    slots: int,
    caches: int | None,
    captured: bool = False,
    unpacked: int = 0,
) -> Capacity:
    """Divide a budget.

    Args:
        figures: of the bundle; `context` is that of a slot.
        shape: of a token's keys and values.
        budget: bytes for KV cache, requests and caches.
        slots: requests at once, at most.
        caches: bytes for the caches, at most; None is room for 16 pictures.
        captured: decode steps become CUDA graphs.
        unpacked: bytes of the largest NF4 or INT8 layer in FP16.

    Raises:
        InputError: it is too little for one slot, and one picture with a prompt as long as the context.
    """
    slot = shape.slot_bytes(figures.context)
    usual = figures.picture
    picture = replace(usual, tokens=min(usual.tokens, figures.context))
    most = request_memory(figures, figures.context, (picture,), 0)
    beside = replace(most, kv=0).alone

    def pool(count: int) -> int:
        return step_bytes(figures.text, count, figures.context, figures.states, unpacked) if captured else 0

    count = next((n for n in range(slots, 0, -1) if n * slot + pool(n) + beside <= budget), 0)
    if count < 1:
        beside += pool(1)
        raise InputError(
            f"memory does not suffice for one request: keys and values of {figures.context:,} tokens take {slot:,} "
            f"bytes, all else {beside:,}, and there are {budget:,}",
            next_step="serve with a shorter context, or give a larger budget",
            passing=True,
        )
    cross = slot - shape.rows(figures.context) * shape.token_bytes  # keys and values of an image, in each slot
    kept = usual.tokens * shape.token_bytes + cross + most.features
    kv, graphs = count * slot, pool(count)
    return Capacity(count, kv, graphs, budget - kv - graphs, _PICTURES * kept if caches is None else caches)


def memory_beside_kv(figures: MemoryFigures, question: TokenizedRequest) -> RequestMemory:
    """What a request needs beside its slot."""
    return replace(request_memory(figures, len(question.prompt.ids), question.prompt.layouts, question.limit), kv=0)
