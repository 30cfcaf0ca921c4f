"""How many slots memory has room for, and what is left beside their keys and values.

The KV cache is allocated whole when the runtime is opened: it cannot run out later, and is no part of what a request
needs from then on. What is left is for features and activations of the requests, and for the caches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from edgeq.errors import InputError
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
        requests: bytes for requests and caches beside it.
        caches: of these, what the caches may have at most.
    """

    slots: int
    kv: int
    requests: int
    caches: int


def find_capacity(figures: MemoryFigures, shape: KvShape, budget: int, *, slots: int, caches: int | None) -> Capacity:
    """Divide a budget.

    Args:
        figures: of the bundle; `context` is that of a slot.
        shape: of a token's keys and values.
        budget: bytes for KV cache, requests and caches.
        slots: requests at once, at most.
        caches: bytes for the caches, at most; None is room for 16 pictures.

    Raises:
        InputError: it is too little for one slot, and one picture with a prompt as long as the context.
    """
    slot = shape.slot_bytes(figures.context)
    usual = figures.picture
    picture = replace(usual, tokens=min(usual.tokens, figures.context))
    most = request_memory(figures, figures.context, (picture,), 0)
    beside = replace(most, kv=0).alone
    count = min(slots, (budget - beside) // slot)
    if count < 1:
        raise InputError(
            f"memory does not suffice for one request: keys and values of {figures.context:,} tokens take {slot:,} "
            f"bytes, all else {beside:,}, and there are {budget:,}",
            next_step="serve with a shorter context, or give a larger budget",
            passing=True,
        )
    cross = slot - shape.rows(figures.context) * shape.token_bytes  # keys and values of an image, in each slot
    kept = usual.tokens * shape.token_bytes + cross + most.features
    kv = count * slot
    return Capacity(count, kv, budget - kv, _PICTURES * kept if caches is None else caches)


def memory_beside_kv(figures: MemoryFigures, question: TokenizedRequest) -> RequestMemory:
    """What a request needs beside its slot."""
    return replace(request_memory(figures, len(question.prompt.ids), question.prompt.layouts, question.limit), kv=0)
