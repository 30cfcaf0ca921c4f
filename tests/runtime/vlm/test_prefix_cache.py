"""What is kept of a prompt up to its image has the bits that reading it again would give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from decoders import CONTEXT, Parts, noise, open_parts, shared_parts

from edgeq.families.registry import runnable
from edgeq.runtime.vlm.api import GenerationRequest, Turn
from edgeq.runtime.vlm.decode_step import DecodeStep
from edgeq.runtime.vlm.lru_cache import LruCache
from edgeq.runtime.vlm.prefill import Prefill, PrefillResult
from edgeq.runtime.vlm.prefix_cache import PrefixCache, prefix_length
from edgeq.runtime.vlm.vision_encoder import VisionEncoder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return shared_parts(tmp_path_factory)


def reader(parts: Parts, kept: int = 1 << 20) -> tuple[Prefill, DecodeStep]:
    step = DecodeStep(parts.language.model, runnable("llava"), 4, CONTEXT)
    return Prefill(parts.prompter, VisionEncoder(parts.engine), parts.language, step, LruCache(kept)), step


def test_a_prefix_ends_with_the_image_and_before_the_prompt_does() -> None:
    assert prefix_length(np.array([1, 9, 9, 4, 9, 5, 6]), 9) == 5
    assert prefix_length(np.array([1, 9, 9]), 9) == 2, "one token must be left to be read"
    assert prefix_length(np.array([1, 2, 3]), 9) == 0


def test_a_second_question_has_the_bits_of_a_fresh_prompt(parts: Parts) -> None:
    image = noise(1)
    warm, slots = reader(parts)
    first = warm.read(parts.question(GenerationRequest.about(image, "what is it?", 9)), slot=0)
    assert (first.cached_tokens, first.encoder_cache_hit) == (0, False)
    for slot, text in enumerate(("where is it?", "what is it?", "x", "is it so, and how do you know?")):
        question = parts.question(GenerationRequest.about(image, text, 9))
        again = warm.read(question, slot)
        assert (again.cached_tokens, again.encoder_cache_hit) == (5, True), "<s> and the 4 places of the image"
        cold, fresh_slots = reader(parts)
        fresh = cold.read(question, slot=2)
        assert torch.equal(again.logits, fresh.logits)
        n = len(question.prompt.ids)
        assert torch.equal(slots.cache.copy_out(slot, n), fresh_slots.cache.copy_out(2, n))


def test_a_prompt_is_always_read_in_the_same_two_pieces(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass over more tokens at once may round in another way."""
    warm, step = reader(parts)
    pieces, read = [], step.read

    def watched(embeddings: torch.Tensor, slot: int, start: int, *, last: bool) -> torch.Tensor | None:
        pieces.append((start, embeddings.shape[1], last))
        return read(embeddings, slot, start, last=last)

    monkeypatch.setattr(step, "read", watched)
    question = parts.question(GenerationRequest.about(noise(1), "what?", 9))
    rest = (5, len(question.prompt.ids) - 5, True)
    for _ in range(2):
        warm.read(question, 0)
    assert pieces == [(0, 5, False), rest, rest]


def test_another_image_or_another_text_before_it_is_not_the_same(parts: Parts) -> None:
    warm, _ = reader(parts)

    def read(image: int, text: str) -> PrefillResult:
        turns = (Turn.said("user", text), Turn.said("assistant", "yes"), Turn.said("user", "what is it?", images=1))
        return warm.read(parts.question(GenerationRequest(noise(image), turns, 9)), slot=0)

    cut = 1 + len("so?") + len("yes") + 4
    assert read(1, "so?").cached_tokens == 0
    assert read(1, "so?").cached_tokens == cut
    other = read(1, "no?")
    assert (other.cached_tokens, other.encoder_cache_hit) == (0, True), "the features are those of the same image"
    assert read(2, "so?").cached_tokens == 0
    assert not torch.equal(read(2, "so?").logits, read(1, "so?").logits)


def test_an_image_at_the_end_is_read_as_well(parts: Parts) -> None:
    """Then its last feature belongs to the second piece."""
    question = parts.question(GenerationRequest.about(noise(1), "x", 9))
    ids = question.prompt.ids[:5]
    assert ids[-1] == 90
    cut = replace(question, ids=ids, limit=9)
    warm, slots = reader(parts)
    fresh, again = warm.read(cut, slot=0), warm.read(cut, slot=1)
    assert (again.cached_tokens, again.encoder_cache_hit) == (4, True)
    assert torch.equal(fresh.logits, again.logits)
    assert torch.equal(slots.cache.copy_out(0, 5), slots.cache.copy_out(1, 5))


def test_nothing_is_kept_where_there_is_no_room(parts: Parts) -> None:
    cold, _ = reader(parts, kept=0)
    question = parts.question(GenerationRequest.about(noise(1), "what is it?", 9))
    before = parts.engine.runs
    assert [cold.read(question, slot).cached_tokens for slot in (0, 1)] == [0, 0]
    assert parts.engine.runs == before + 2


def test_tokens_see_each_other_in_both_directions_where_nothing_can_be_kept(tmp_path: Path) -> None:
    """PaliGemma's image looks at the question: its keys and values are other ones for each question."""
    parts = open_parts(tmp_path, "paligemma")
    step = DecodeStep(parts.language.model, parts.language.image_prompt, 2, CONTEXT)
    both = Prefill(parts.prompter, VisionEncoder(parts.engine), parts.language, step, LruCache(1 << 20))
    reads = [both.read(parts.question(GenerationRequest.about(noise(1), text, 9)), 0) for text in ("what?", "where?")]
    assert [(read.cached_tokens, read.encoder_cache_hit) for read in reads] == [(0, False), (0, True)]


def test_the_store_knows_image_and_text() -> None:
    store, ids = PrefixCache(LruCache(10_000)), np.arange(5)
    store.put(b"image", ids, torch.ones(3))
    assert store.get(b"image", ids) is not None
    assert store.get(b"other", ids) is None
    assert store.get(b"image", ids[:4]) is None
    assert store.get(b"image", np.array([0, 1, 2, 4, 3])) is None
