"""The runtime's own slots: is a step as a CUDA graph the step operator by operator, in another thread as well; does an
answer depend on the others; how long do steps and first tokens take, and what memory do slots take?
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.gpu_check.findings import Finding, Scale
from benchmarks.random_nf4 import random_nf4
from benchmarks.served_nf4 import Served, serve, without_graphs, write_small_config
from edgeq.runtime.vlm.api import GREEDY, SamplingParams
from edgeq.runtime.vlm.batch_decoder import BatchDecoder, TokenEvent

__all__ = ["alone", "scripted", "steps"]

_SIZES = ((4, 2048), (4, 768), (1, 2048))
_SMALL_SIZES = ((2, 64),)
"""Slots, and the context of each."""

_STEPS, _BETWEEN = 16, 8
"""Of an answer; and when another one takes a slot."""

_TIMED = 40
_QUESTION = 24
"""Tokens beside the image's."""

_DRAWN = SamplingParams(temperature=1.0, top_p=0.9, seed=5)

Answers = dict[int, list[tuple[int, Any]]]
"""By question, each token and how likely it was."""


def steps(scale: Scale) -> Iterator[Finding]:
    """A finding for each number of slots and context."""
    with TemporaryDirectory() as scratch:
        config = write_small_config(Path(scratch)) if scale.tiny else scale.config
        sizes = _SMALL_SIZES if scale.tiny else _SIZES
        served = serve(random_nf4(config, scale.device), config, max(context for _, context in sizes))
    for slots, context in sizes:
        yield _size(scale, served, slots, context)


def _size(scale: Scale, served: Served, slots: int, context: int) -> Finding:
    before = _reserved(scale)
    decoder = served.decoder(slots, context)
    found: Finding = {"slots": slots, "context": context, "kv_bytes": decoder.kv_bytes}
    found |= {} if scale.tiny else {"reserved_bytes": _reserved(scale) - before}
    graph = scripted(decoder, served)
    found["in_another_thread"] = _elsewhere(decoder, served) == graph
    found["depends_on_others"] = [seed for seed, said in graph.items() if alone(decoder, served, seed) != said]
    found["finite"] = all(token >= 0 for answer in graph.values() for token, _ in answer)
    if not scale.tiny:
        found |= _times(decoder, served, slots, context)
    del decoder
    with without_graphs():
        eager = served.decoder(slots, context)
    found["graph_is_eager"] = scripted(eager, served) == graph
    if not scale.tiny:
        found["eager_ms"] = _step_ms(eager, served, slots, _prompt(served), GREEDY)
    del eager
    found["fine"] = all((found["finite"], found["in_another_thread"], not found["depends_on_others"]))
    return found


def _prompt(served: Served) -> int:
    return served.image_tokens + _QUESTION


def scripted(decoder: BatchDecoder, served: Served) -> Answers:
    """What all slots say, one of which is given to another question halfway.

    Args:
        decoder: its slots, all of them free; they are so afterwards.
        served: the model.
    """
    found: Answers = {}
    asked = {slot: slot for slot in range(decoder.slots)}
    for slot, seed in asked.items():
        found[seed] = [_begun(decoder, served, slot, seed)]
    for step in range(_STEPS):
        if step == _BETWEEN and decoder.slots > 1:
            last = decoder.slots - 1
            decoder.release(last)
            asked[last] = decoder.slots
            found[decoder.slots] = [_begun(decoder, served, last, decoder.slots)]
        for said in decoder.step():
            found[asked[said.slot]].append(_told(said))
    for slot in asked:
        decoder.release(slot)
    return found


def alone(decoder: BatchDecoder, served: Served, seed: int) -> list[tuple[int, Any]]:
    """What a question is answered while nobody else is there; as many tokens as `scripted` has of it.

    Args:
        decoder: as for `scripted`.
        served: the model.
        seed: of the question.
    """
    last = decoder.slots if decoder.slots > 1 else -1
    count = _BETWEEN if seed in (last, last - 1) else _STEPS
    found = [_begun(decoder, served, 0, seed)]
    for _ in range(count):
        found += [_told(said) for said in decoder.step()]
    decoder.release(0)
    return found


def _begun(decoder: BatchDecoder, served: Served, slot: int, seed: int) -> tuple[int, Any]:
    sampling = GREEDY if seed % 2 else _DRAWN
    question = served.question(seed, _prompt(served), 2 * _STEPS, sampling=sampling, logprobs=3)
    return _told(decoder.begin(slot, question).said)


def _told(said: TokenEvent) -> tuple[int, Any]:
    return said.token_id, said.logprob


def _elsewhere(decoder: BatchDecoder, served: Served) -> Answers | None:
    """What another thread is answered; None where it failed."""
    found: list[Answers] = []
    thread = threading.Thread(target=lambda: found.append(scripted(decoder, served)))
    thread.start()
    thread.join()
    return found[0] if found else None


def _times(decoder: BatchDecoder, served: Served, slots: int, context: int) -> Finding:
    """Milliseconds of steps by occupied slots and tokens, and to the first token."""
    short, long = _prompt(served), context - 2 * _TIMED
    found: Finding = {}
    for occupied in sorted({1, slots}):
        for tokens in (short, long):
            found[f"step_ms_{occupied}_slots_{tokens}_tokens"] = _step_ms(decoder, served, occupied, tokens, GREEDY)
    found["drawn_step_ms"] = _step_ms(decoder, served, slots, short, _DRAWN)
    for tokens in (short, long):
        found[f"first_token_ms_{tokens}_tokens"] = _first_ms(decoder, served, tokens)
    return found


def _step_ms(decoder: BatchDecoder, served: Served, occupied: int, tokens: int, sampling: SamplingParams) -> float:
    """Of one step, with what happens on the host."""
    for slot in range(occupied):
        decoder.begin(slot, served.question(slot, tokens, 2 * _TIMED, sampling=sampling))
    for _ in range(3):
        decoder.step()
    start = time.perf_counter()
    for _ in range(_TIMED):
        decoder.step()
    taken = 1e3 * (time.perf_counter() - start) / _TIMED
    for slot in range(occupied):
        decoder.release(slot)
    return round(taken, 3)


def _first_ms(decoder: BatchDecoder, served: Served, tokens: int) -> float:
    """From pixels and tokens to the first token."""
    taken = []
    for seed in range(3):
        question = served.question(100 + seed, tokens, 2)
        start = time.perf_counter()
        decoder.begin(0, question)
        taken.append(1e3 * (time.perf_counter() - start))
        decoder.release(0)
    return round(min(taken), 2)


def _reserved(scale: Scale) -> int:
    if scale.tiny:
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_reserved())
