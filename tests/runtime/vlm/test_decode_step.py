"""Steps over slots, for each kind of language half, against transformers' own pass, masks and cache, in float32."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from language_halves import HALVES, WINDOW, LongPrompt, answer_together, pieces, tiny_half, words

from edgeq.runtime.vlm.decode_step import DecodeStep

STEPS = 7


def three(**fields: object) -> tuple[LongPrompt, ...]:
    """Prompts shorter than a window, as long as one and longer; the answer to the first grows beyond it."""
    lengths = ((5, 2), (WINDOW, 4), (21, 14))
    return tuple(LongPrompt(words(count, count), cut, **fields) for count, cut in lengths)  # type: ignore[arg-type]


def one_image(**fields: object) -> tuple[LongPrompt, ...]:
    """Prompts whose image ends before the second piece, and crosses a window's border in one of them."""
    sizes = ((9, (1, 5), 6), (12, (2, 6), 6), (23, (3, 15), 15))
    return tuple(LongPrompt(words(count, count), cut, image, **fields) for count, image, cut in sizes)  # type: ignore[arg-type]


CASES: Mapping[str, tuple[str, tuple[LongPrompt, ...]]] = {
    "all tokens seen": ("llama", three()),
    "all layers slide": ("mistral", three()),
    "half of the layers slide": ("qwen2", three()),
    "slide and cap scores": ("gemma2", three()),
    "slide, with an angle for each kind": ("gemma3", three()),
    "blocks of an image": ("gemma3", one_image(blocks="image")),
    "a prompt that sees all of itself": (
        "gemma2",
        tuple(LongPrompt(words(count, count), blocks="prompt") for count in (5, 12, 21)),
    ),
    "positions of three axes, and windows": ("qwen2_vl", three(mrope=True)),
    "positions of three axes": ("qwen2_5_vl", three(mrope=True)),
    "deepstack": ("qwen3_vl", one_image(mrope=True, deepstack=2)),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str, masked: bool) -> None:
    """Three at once, each read in two pieces, begun one after another; on a CPU's path and on a GPU's."""
    name, prompts = CASES[case]
    found, expected = answer_together(tiny_half(name), prompts, masked=masked, steps=STEPS)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) == STEPS
        for left, right in zip(ours, theirs, strict=True):
            assert torch.allclose(left, right, atol=2e-4 * float(right.abs().max()))
            assert left.argmax() == right.argmax()


@pytest.mark.parametrize("name", HALVES)
def test_only_the_last_token_of_a_prompt_goes_through_the_head(name: str) -> None:
    model = tiny_half(name)
    step = DecodeStep(model, slots=2, context=40)
    given: list[int] = []
    model.get_output_embeddings().register_forward_pre_hook(lambda _head, inputs: given.append(inputs[0].shape[1]))
    first, last = pieces(model, LongPrompt(words(9, 1), 5))
    assert step.read(first, 1) is None
    assert given == []
    step.read(last, 1)
    assert given == [1]
