"""Steps over slots, for each kind of language half, against transformers' own pass, masks and cache, in float32."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from language_halves import HALVES, WINDOW, LongPrompt, answer_together, pieces, tiny_half, words
from simulated_graphs import SimulatedGraphs

from edgeq.runtime.vlm.decode_step import DecodeStep, StepOptions

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


def company(step: DecodeStep, model: Any, prompts: Sequence[LongPrompt], seed: int) -> dict[int, list[torch.Tensor]]:
    """Logits of each prompt's steps, as prompts come into slots of chance and leave; tokens are the likeliest."""
    draw, waiting = random.Random(seed), list(range(len(prompts)))
    slots = len(step.cache.crossed)
    running: dict[int, int] = {}
    found: dict[int, list[torch.Tensor]] = {number: [] for number in waiting}
    while waiting or running:
        free = [slot for slot in range(slots) if slot not in running]
        while waiting and free and (not running or draw.random() < 0.4):
            number, slot = waiting.pop(0), free.pop(draw.randrange(len(free)))
            (piece,) = pieces(model, prompts[number])
            first = step.read(piece, slot)
            assert first is not None
            step.occupy(slot, int(first.argmax()), len(prompts[number].ids), prompts[number].behind)
            running[slot] = number
        order, logits = tuple(step.order), step.forward().clone()
        step.advance(logits.argmax(-1))
        for slot, row in zip(order, logits, strict=False):
            found[running[slot]].append(row)
            if len(found[running[slot]]) == 5 + running[slot] % 4:
                step.vacate(slot)
                del running[slot]
    return found


@pytest.mark.parametrize("way", ["own tokens", "rows through a mask", "graphs"])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_the_bits_do_not_depend_on_the_company(name: str, way: str) -> None:
    """Short prompts and some that grow over the border between two lengths of a graph, each against itself alone.

    In FP16, whose products have the same bits for any number of rows on most CPUs: so that narrower steps are taken.
    """
    model, graphs = tiny_half(name).half(), SimulatedGraphs()
    prompts = [LongPrompt(words(count, count)) for count in (5, 253, 9, 258, 3, 251, 40, 17, 252)]
    options = {"own tokens": StepOptions(), "rows through a mask": StepOptions(masked=True)}
    step = DecodeStep(model, 4, 400, options=options.get(way) or StepOptions(capture=graphs))
    assert graphs.count == (8 if way == "graphs" else 0), "4 numbers of slots and 2 lengths"
    together = company(step, model, prompts, seed=1)
    for number, prompt in enumerate(prompts):
        alone = company(step, model, [prompt], seed=0)[0]
        for left, right in zip(together[number], alone, strict=False):
            assert torch.equal(left, right)


def test_an_occupied_slot_is_among_the_first_and_no_other_is_computed() -> None:
    model = tiny_half("llama")
    step = DecodeStep(model, slots=4, context=40, options=StepOptions(batch_invariant=False))
    given: list[int] = []
    model.model.embed_tokens.register_forward_pre_hook(lambda _embed, inputs: given.append(len(inputs[0])))
    for slot in (2, 0, 3):
        (piece,) = pieces(model, LongPrompt(words(6 + slot, slot)))
        step.read(piece, slot)
        step.occupy(slot, 7, 6 + slot, 6 + slot)
    assert step.order == [2, 0, 3]
    given.clear()
    before = step.forward().clone()
    step.vacate(2)
    assert step.order == [3, 0]
    after = step.forward()
    assert given == [3, 2]
    assert torch.allclose(after, before[[2, 1]], atol=1e-4 * float(before.abs().max()))


def test_bits_that_differ_in_few_steps_are_found() -> None:
    """A head that answers one row by itself otherwise in each ninth step, as rounding lets through."""
    model = tiny_half("llama").half()
    asked: list[int] = []

    def other(_head: torch.nn.Module, inputs: tuple[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
        asked.append(len(inputs[0]))
        return logits * 2 if asked[-1] == 1 and asked.count(1) % 9 == 0 else logits

    model.lm_head.register_forward_hook(other)
    step = DecodeStep(model, slots=3, context=40)
    assert 1 not in [shape.slots for shape in step.shapes]


@pytest.mark.parametrize("exact", [True, False])
def test_a_shape_that_gives_other_bits_is_used_on_request_alone(exact: bool) -> None:
    """A head that answers one row by itself a little otherwise, as another kernel might."""
    model = tiny_half("llama").half()
    nudge = 1 + 2**-7

    def other(_head: torch.nn.Module, inputs: tuple[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
        return logits * nudge if len(inputs[0]) == 1 else logits

    model.lm_head.register_forward_hook(other)
    step = DecodeStep(model, slots=3, context=40, options=StepOptions(batch_invariant=exact))
    slots = [shape.slots for shape in step.shapes]
    assert 1 not in slots if exact else slots == [3, 2, 1]
    assert not step.cache.copy_out(1, 0, 64).rows.any(), "nothing of the trial is left"


def test_two_that_are_not_numbers_leave_nothing_behind() -> None:
    """Of three answers two have NaN among their keys; they leave one after another, as a step ends them."""
    model = tiny_half("llama").half()
    prompts = [LongPrompt(words(count, count)) for count in (4, 11, 7)]
    step = DecodeStep(model, slots=3, context=40, options=StepOptions(masked=True))
    for slot, prompt in enumerate(prompts):
        (piece,) = pieces(model, prompt)
        step.read(piece, slot)
        step.occupy(slot, 5, len(prompt.ids), prompt.behind)
    step.cache._store[:, :, [0, 2], 3:7] = float("nan")
    logits = step.forward()
    assert logits.isnan().any(1).tolist() == [True, False, True]
    expected = logits[1].clone()
    for slot in (0, 2):
        step.vacate(slot, clear=True)
    assert step.order == [1]
    assert torch.equal(step.forward()[0], expected)
    assert step.cache._store.isfinite().all()
