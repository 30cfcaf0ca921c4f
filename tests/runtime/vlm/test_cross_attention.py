"""Slots of a language half that looks at images by cross-attention: with an image, with a part of it, and with none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from language_halves import LongPrompt, answer_together, expected_logits, pieces, tiny_half, words
from vlm import TEXT

from edgeq.runtime.vlm.cache_name import cache_name
from edgeq.runtime.vlm.decode_step import DecodeStep
from edgeq.runtime.vlm.kv_cache import SlotCache, read_kv_shape
from edgeq.runtime.vlm.piece import CrossStates, cross_inputs

STATES = 12
STEPS = 6


def about_image(seed: int, seen: int = STATES) -> LongPrompt:
    """An image behind two tokens, of which `seen` states are looked at; the second piece begins behind it."""
    draw = torch.Generator().manual_seed(seed)
    states = torch.randn(STATES, TEXT["hidden_size"], generator=draw)
    return LongPrompt(words(9 + seed, seed), 4, (2, 3), states=states, seen=torch.arange(STATES) < seen)


def about_nothing(seed: int) -> LongPrompt:
    return LongPrompt(words(7, seed), 3)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.allclose(ours, theirs, atol=2e-4 * float(theirs.abs().max())) and bool(
        ours.argmax() == theirs.argmax()
    )


@pytest.mark.parametrize("masked", [False, True])
def test_texts_with_and_without_an_image_at_once(masked: bool) -> None:
    """The text alone gets nothing of the others' images: transformers leaves such layers out for it."""
    prompts = (about_image(1), about_nothing(2), about_image(3, seen=5))
    found, expected = answer_together(tiny_half("mllama"), prompts, masked=masked, steps=STEPS, states=STATES)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) == STEPS
        assert all(close(left, right) for left, right in zip(ours, theirs, strict=True))


def answer(step: DecodeStep, prompt: LongPrompt, slot: int, tokens: list[int]) -> list[torch.Tensor]:
    """Logits of one answer whose tokens are known."""
    for piece in pieces(step._model, prompt):
        logits = step.read(piece, slot)
    return [logits[0], *rest(step, prompt, slot, tokens)]  # type: ignore[index]


def rest(step: DecodeStep, prompt: LongPrompt, slot: int, tokens: list[int]) -> list[torch.Tensor]:
    """Logits of an answer behind its first token."""
    step.occupy(slot, tokens[0], len(prompt.ids), prompt.behind)
    found = []
    for token in tokens[1:]:
        found.append(step.forward()[0].clone())
        step.advance(torch.tensor([token]))
    step.vacate(slot)
    return found


def test_a_text_in_the_slot_of_an_image_sees_nothing_of_it() -> None:
    model = tiny_half("mllama")
    image, text = about_image(1), about_nothing(2)
    expected = [expected_logits(model, prompt, STEPS) for prompt in (image, text, image)]
    step = DecodeStep(model, slots=2, context=40, cross_states=STATES)
    for prompt, (logits, tokens) in zip((image, text, image), expected, strict=True):
        assert all(map(close, answer(step, prompt, 1, tokens), logits))


def test_an_image_in_a_later_piece_than_words_of_their_own() -> None:
    """As transformers reads a text, and then an image behind it into the same cache."""
    model = tiny_half("mllama")
    prompt = replace(about_image(4), cut=2)
    before, behind = (model.get_input_embeddings()(part)[None] for part in (prompt.ids[:2], prompt.ids[2:]))
    with torch.inference_mode():
        read, cache = model(inputs_embeds=before, use_cache=True), cache_name(model)
        given = cross_inputs(CrossStates(prompt.looks[2:], prompt.states), torch.float32)
        expected = model(inputs_embeds=behind, **{cache: getattr(read, cache)}, **given).logits[0, -1]
    step = DecodeStep(model, slots=2, context=40, cross_states=STATES)
    words_alone, rest_of_it = pieces(model, prompt)
    step.read(words_alone, 1)
    found = step.read(rest_of_it, 1)
    assert found is not None
    assert close(found[0], expected)


def test_an_image_goes_with_the_tokens_that_are_kept() -> None:
    """Its keys and values are copied with the piece that it stands in, into another slot; the rest is read there."""
    model = tiny_half("mllama")
    image, text = about_image(1), about_nothing(2)
    logits, tokens = expected_logits(model, image, STEPS)
    text_logits, text_tokens = expected_logits(model, text, STEPS)
    step = DecodeStep(model, slots=3, context=40, cross_states=STATES)
    first, last = pieces(model, image)
    step.read(first, 0)
    kept = step.copy_out(0, 0, first.tokens, cross=True)
    assert kept.nbytes == first.tokens * step.shape.token_bytes + step.shape.cross_bytes
    step.vacate(0, clear=True)
    assert not step.copy_out(0, 0, 40, cross=True).cross.any()  # type: ignore[union-attr]
    step.copy_in(2, 0, kept)
    found = step.read(last, 2)
    assert found is not None
    assert close(found[0], logits[0])
    assert all(map(close, rest(step, image, 2, tokens), logits[1:]))
    step.read(pieces(model, text)[0], 0)
    kept = step.copy_out(0, 0, text.cut)
    assert kept.nbytes == text.cut * step.shape.token_bytes
    step.copy_in(2, 0, kept)
    found = step.read(pieces(model, text)[1], 2)
    assert found is not None
    assert close(found[0], text_logits[0])
    assert all(map(close, rest(step, text, 2, text_tokens), text_logits[1:]))


def test_bytes_by_hand() -> None:
    """Layers 1 and 2 look at images: 2 of keys and values x 2 layers x 2 heads x 16 numbers x 4 bytes, 12 states."""
    shape = read_kv_shape(tiny_half("mllama"), STATES)
    assert (shape.layers, shape.cross, shape.states) == (2, (1, 2), STATES)
    assert shape.token_bytes == 512
    assert shape.cross_bytes == 12 * 512
    assert shape.slot_bytes(63) == 64 * 512 + 12 * 512
    assert SlotCache(shape, slots=3, context=63).bytes == 3 * shape.slot_bytes(63)
