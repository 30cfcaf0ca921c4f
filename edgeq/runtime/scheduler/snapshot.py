"""The runtime's figures at one moment, for metrics and for people."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.runtime.cuda_graphs import GraphState

__all__ = ["CacheFigures", "Snapshot"]


@dataclass(frozen=True)
class CacheFigures:
    """One kind of what is kept of earlier requests. Counts are since the runtime was opened.

    Attributes:
        entries: there now.
        bytes: that they hold.
        hits: times that something was there.
        misses: times that it was not.
        evicted: entries that gave way.
    """

    entries: int
    bytes: int
    hits: int
    misses: int
    evicted: int


@dataclass(frozen=True)
class Snapshot:
    """All figures. Counts and sums are since the runtime was opened and never fall.

    Attributes:
        slots: requests that can be served at once.
        active: requests being served.
        queued: requests waiting.
        held: nothing starts, because too little memory is free.
        submitted: requests that came, those refused included.
        ended: how requests ended -> how many: `stop`, `stop_string`, `limit`, `context`, `cancelled`, `deadline`,
            `failed`, `out_of_memory`, `too_large`, `busy`.
        prompt_tokens: read or reused, of all requests that started.
        cached_tokens: of these, reused: an earlier request had read them.
        answer_tokens: said.
        steps: decode steps, each of at most one token for every slot.
        first_tokens: requests that got a first token.
        first_token_seconds: from submission to the first token, over all of these together.
        decode_tokens: tokens after the first.
        decode_seconds: between the tokens of a request, over all `decode_tokens` together.
        kv_bytes: allocated for keys and values, once, when the runtime was opened.
        kv_used_bytes: of these, with tokens in them that a running request has read or said.
        kv_reserved_bytes: of these, what the running requests may come to.
        context: tokens of a request at most, answer included.
        longest: tokens of the running request that has come furthest.
        reserved_bytes: features and activations reserved for the running requests, beside the KV cache.
        limit_bytes: for these and the caches together, now.
        features: images' features that are kept.
        prefixes: keys and values of what prompts begin with that are kept, in pieces.
        memory_free_bytes: of the machine, at the last look.
        cuda_graphs: how decode steps run: `captured` as CUDA graphs; kernel by kernel with `off`, as was asked, with
            `failed`, because a capture failed, and with `none`, without a GPU.
    """

    slots: int
    active: int
    queued: int
    held: bool
    submitted: int
    ended: dict[str, int]
    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int
    steps: int
    first_tokens: int
    first_token_seconds: float
    decode_tokens: int
    decode_seconds: float
    kv_bytes: int
    kv_used_bytes: int
    kv_reserved_bytes: int
    context: int
    longest: int
    reserved_bytes: int
    limit_bytes: int
    features: CacheFigures
    prefixes: CacheFigures
    memory_free_bytes: int
    cuda_graphs: GraphState = "none"
