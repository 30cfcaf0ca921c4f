"""What is kept of a prompt up to its image has the bits that reading it again would give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from decoders import CONTEXT, Parts, noise, open_parts, shared_parts
from PIL import Image

from edgeq.families.base import Layout
from edgeq.runtime.vlm.api import IMAGE, GenerationRequest, Turn
from edgeq.runtime.vlm.decode_step import DecodeStep
from edgeq.runtime.vlm.kv_cache import KeptRows
from edgeq.runtime.vlm.lru_cache import LruCache
from edgeq.runtime.vlm.piece import PromptPiece
from edgeq.runtime.vlm.prefill import Prefill, PrefillResult
from edgeq.runtime.vlm.prefix_cache import PrefixCache, piece_keys
from edgeq.runtime.vlm.prompt import Prompt
from edgeq.runtime.vlm.vision_encoder import VisionEncoder

_TURNS = (
    "<s>{% for message in messages %}{{ 'Q' if message['role'] == 'user' else 'A' }}"
    "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}A{% endif %}"
)
"""Marks whose turn it is, as chat templates do: so a prompt is what the next one begins with."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return shared_parts(tmp_path_factory)


def reader(parts: Parts, kept: int = 1 << 20) -> tuple[Prefill, DecodeStep]:
    step = DecodeStep(parts.language.model, 4, CONTEXT)
    return Prefill(parts.prompter, VisionEncoder(parts.engine), parts.language, step, LruCache(kept)), step


def prompt(ids: list[int], *tokens: int, cuts: tuple[int, ...] = ()) -> Prompt:
    """With images of so many tokens, whose token is 9."""
    values = np.array(ids)
    return Prompt(values, np.arange(len(values)), tuple(Layout(count, 1, count) for count in tokens), cuts)


def test_a_piece_has_the_key_of_its_text_its_images_and_all_before_it() -> None:
    keys = piece_keys(prompt([1, 9, 9, 4, 9, 5], 2, 1, cuts=(3, 5)), (b"a", b"b"), 9)
    assert len(set(keys)) == 3
    assert piece_keys(prompt([1, 9, 9, 4, 9, 6], 2, 1, cuts=(3, 5)), (b"a", b"b"), 9)[:2] == keys[:2], "another end"
    other = piece_keys(prompt([1, 9, 9, 4, 9, 5], 2, 1, cuts=(3, 5)), (b"a", b"c"), 9)
    assert [one == two for one, two in zip(keys, other, strict=True)] == [True, False, False], "another second image"
    first = piece_keys(prompt([1, 9, 9, 4, 9, 5], 2, 1, cuts=(3, 5)), (b"c", b"b"), 9)
    assert not set(first) & set(keys), "another first image"
    assert piece_keys(prompt([1, 9, 9, 4, 9, 5], 2, 1, cuts=(3,)), (b"a", b"b"), 9)[0] == keys[0]
    assert piece_keys(prompt([1, 9, 9, 9], 3, cuts=(2,)), (b"a",), 9) != piece_keys(
        prompt([1, 9, 9, 9], 3, cuts=(2,)), (b"b",), 9
    ), "a cut within an image"


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
        assert torch.equal(slots.copy_out(slot, 0, n).rows, fresh_slots.copy_out(2, 0, n).rows)


def test_a_prompt_is_always_read_in_the_same_pieces(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass over more tokens at once may round in another way."""
    warm, step = reader(parts)
    pieces, read = [], step.read

    def watched(piece: PromptPiece, slot: int) -> torch.Tensor | None:
        pieces.append((piece.start, piece.tokens, piece.last))
        return read(piece, slot)

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
        return warm.read(parts.question(GenerationRequest((noise(image),), turns, 9)), slot=0)

    cut = 1 + len("so?") + len("yes") + 4
    assert read(1, "so?").cached_tokens == 0
    assert read(1, "so?").cached_tokens == cut
    other = read(1, "no?")
    assert (other.cached_tokens, other.encoder_cache_hit) == (0, True), "the features are those of the same image"
    assert read(2, "so?").cached_tokens == 0
    assert not torch.equal(read(2, "so?").logits, read(1, "so?").logits)


def test_a_question_more_reads_only_what_is_new(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images and six questions: of each prompt, all is kept but the answer before it and the question itself."""
    monkeypatch.setattr(parts.prompter.tokenizer, "chat_template", _TURNS)
    warm, slots = reader(parts)
    images, turns, before = [noise(1), noise(2), noise(3)], [], 0
    given: list[Image.Image] = []
    for number, text in enumerate(("a?", "b?", "c?", "d?", "e?", "f?")):
        if number % 2 == 0:
            given.append(images[number // 2])
        turns.append(Turn.said("user", text, images=1 - number % 2))
        question = parts.question(GenerationRequest(tuple(given), tuple(turns), 3))
        read = warm.read(question, slot=0)
        assert read.cached_tokens == before
        assert read.encoder_cache_hit == bool(number % 2)
        cold, fresh_slots = reader(parts)
        fresh, n = cold.read(question, slot=1), len(question.prompt.ids)
        assert torch.equal(read.logits, fresh.logits)
        assert torch.equal(slots.copy_out(0, 0, n).rows, fresh_slots.copy_out(1, 0, n).rows)
        before = n
        turns.append(Turn.said("assistant", "ok"))


def test_swapped_images_are_another_conversation(parts: Parts) -> None:
    warm, _ = reader(parts)
    turns = (Turn("user", ("before", IMAGE, "after", IMAGE, "what changed?")),)
    first, second = noise(1), noise(2)
    one = warm.read(parts.question(GenerationRequest((first, second), turns, 3)), slot=0)
    other = warm.read(parts.question(GenerationRequest((second, first), turns, 3)), slot=1)
    assert (other.cached_tokens, other.encoder_cache_hit) == (0, True)
    assert not torch.equal(one.logits, other.logits)
    again = warm.read(parts.question(GenerationRequest((first, second), turns, 3)), slot=2)
    assert again.cached_tokens == len("<before") + 4 + len("after") + 4, "<s> is one token"
    assert torch.equal(one.logits, again.logits)


def test_an_image_at_the_end_is_read_and_not_kept(parts: Parts) -> None:
    """No token behind it is left to be read."""
    question = parts.question(GenerationRequest.about(noise(1), "x", 9))
    cut = replace(question.prompt, ids=question.prompt.ids[:5], positions=question.prompt.positions[:5], cuts=())
    warm, _ = reader(parts)
    fresh, again = (warm.read(replace(question, prompt=cut), slot) for slot in (0, 1))
    assert (again.cached_tokens, again.encoder_cache_hit) == (0, True)
    assert torch.equal(fresh.logits, again.logits)


def test_nothing_is_kept_where_there_is_no_room(parts: Parts) -> None:
    cold, _ = reader(parts, kept=0)
    question = parts.question(GenerationRequest.about(noise(1), "what is it?", 9))
    before = parts.engine.runs
    assert [cold.read(question, slot).cached_tokens for slot in (0, 1)] == [0, 0]
    assert parts.engine.runs == before + 2


def test_tokens_see_each_other_in_both_directions_where_nothing_can_be_kept(tmp_path: Path) -> None:
    """PaliGemma's image looks at the question: its keys and values are other ones for each question."""
    parts = open_parts(tmp_path, "paligemma")
    step = DecodeStep(parts.language.model, 2, CONTEXT)
    both = Prefill(parts.prompter, VisionEncoder(parts.engine), parts.language, step, LruCache(1 << 20))
    reads = [both.read(parts.question(GenerationRequest.about(noise(1), text, 9)), 0) for text in ("what?", "where?")]
    assert [(read.cached_tokens, read.encoder_cache_hit) for read in reads] == [(0, False), (0, True)]


def test_pieces_are_of_use_without_a_gap_and_the_last_goes_first() -> None:
    def rows(seed: float) -> KeptRows:
        return KeptRows(torch.full((25,), seed))  # 100 bytes

    store = PrefixCache(kept := LruCache(300))
    for number, key in enumerate((b"a", b"b", b"c")):
        store.put(key, rows(float(number)))
    assert [int(one.rows[0]) for one in store.known((b"a", b"b", b"c"))] == [0, 1, 2]
    store.put(b"x", rows(9.0))
    assert len(store.known((b"a", b"b", b"c"))) == 2, "the last piece gave way"
    assert store.known((b"c",)) == []
    assert len(store.known((b"a", b"c", b"b"))) == 1
    assert kept.figures("prefixes").evicted == 1
