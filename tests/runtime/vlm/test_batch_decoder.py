"""Several answers at once, against each alone and against the language model's own loop."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from decoders import Parts, noise, open_parts, shared_parts

from edgeq.errors import EngineError, ModelError
from edgeq.families.base import ImageFeatures
from edgeq.plan.precision import Precision
from edgeq.runtime.vlm.api import GenerationRequest, SamplingParams, Turn
from edgeq.runtime.vlm.batch_decoder import BatchDecoder, TokenEvent
from edgeq.runtime.vlm.decode_step import StepOptions
from edgeq.runtime.vlm.tokenize import TokenizedRequest

QUESTIONS = ("what is it?", "is it a crack, or not?", "where", "how bad is it? say it in a word")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return shared_parts(tmp_path_factory)


def alone(decoder: BatchDecoder, question: TokenizedRequest, slot: int = 0) -> tuple[list[int], str, str | None]:
    """Tokens, text and end of one answer with nobody beside it."""
    said = [decoder.begin(slot, question).said]
    while said[-1].ended is None:
        assert said[-1].error is None
        said += decoder.step()
    return summary(said)


def summary(said: Sequence[TokenEvent]) -> tuple[list[int], str, str | None]:
    return [one.token_id for one in said], "".join(one.text for one in said), said[-1].ended


def mixed(count: int, seed: int) -> list[GenerationRequest]:
    """Requests of all kinds: few images and many, greedy and drawn, short and long, with stop strings and without."""
    draw = random.Random(seed)
    asks = []
    for number in range(count):
        image = noise(draw.randrange(8), width=draw.choice((20, 30, 61)))
        sampling = SamplingParams(draw.choice((0.0, 0.7, 1.5)), draw.choice((1.0, 0.8)), seed=number)
        stop = draw.choice(((), (), ("a",), ("e?", "xy")))
        asks.append(
            GenerationRequest.about(image, draw.choice(QUESTIONS), draw.randint(1, 16), sampling=sampling, stop=stop)
        )
        if number % 9 == 0:
            asks[-1] = GenerationRequest((), (Turn.said("user", draw.choice(QUESTIONS)),), 9, sampling, stop)
    return asks


def together(
    decoder: BatchDecoder, questions: Sequence[TokenizedRequest], seed: int
) -> list[tuple[list[int], str, str | None]]:
    """All answers, as requests join and leave in an order of chance."""
    draw = random.Random(seed)
    waiting, running = list(enumerate(questions)), dict[int, int]()
    said: list[list[TokenEvent]] = [[] for _ in questions]
    while waiting or running:
        free = [slot for slot in range(decoder.slots) if slot not in running]
        while waiting and free and draw.random() < 0.6:
            number, question = waiting.pop(0)
            slot = free.pop(draw.randrange(len(free)))
            first = decoder.begin(slot, question).said
            said[number].append(first)
            if first.ended is None:
                running[slot] = number
        for one in decoder.step():
            said[running[one.slot]].append(one)
            if one.ended is not None:
                del running[one.slot]
    return [summary(one) for one in said]


@pytest.mark.parametrize(
    ("precision", "count", "options"),
    [
        (Precision.NF4, 54, StepOptions()),
        (Precision.NF4, 24, StepOptions(masked=True)),
        (Precision.NF4, 24, StepOptions(ahead=True)),
        (Precision.INT4, 24, StepOptions()),
        (Precision.INT8, 24, StepOptions(masked=True)),
    ],
)
def test_an_answer_does_not_depend_on_the_company(
    tmp_path_factory: pytest.TempPathFactory, precision: Precision, count: int, options: StepOptions
) -> None:
    """Requests in slots of chance, with caches that are too small for all, against each alone in the first slot.

    On a CPU's way; through masks, as on a GPU; and with each step begun before the tokens of the last one are read.
    """
    parts = shared_parts(tmp_path_factory, precision)
    decoder = parts.decoder(cache_bytes=90_000, options=options)
    fresh = parts.decoder(cache_bytes=0, options=replace(options, ahead=False))
    questions = [parts.question(ask) for ask in mixed(count, seed=3)]
    found = together(decoder, questions, seed=4)
    figures = decoder.kept.figures("prefixes")
    assert figures.hits >= 2
    assert figures.evicted >= 2
    expected = [alone(fresh, question) for question in questions]
    assert found == expected
    assert len({tuple(ids) for ids, _, _ in found}) > count / 2, "the answers differ"
    assert len({ended for _, _, ended in found}) > 1, "and end in several ways"


def test_a_step_begun_ahead_is_done_again_only_where_somebody_came_or_went(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three answers of 9 tokens, whose first says the prompt: the last step of each is not begun ahead."""
    decoder = parts.decoder(options=StepOptions(ahead=True))
    forwards: list[int] = []
    forward = decoder._step.forward

    def counted() -> torch.Tensor:
        forwards.append(len(decoder._step.order))
        return forward()

    monkeypatch.setattr(decoder._step, "forward", counted)
    questions = [parts.question(GenerationRequest.about(noise(slot), "what is it?", 9)) for slot in range(3)]
    for slot in (0, 1):
        decoder.begin(slot, questions[slot])
    for _ in range(3):
        decoder.step()
    assert len(forwards) == 4, "the fourth is begun"
    decoder.begin(2, questions[2])
    said = [len(decoder.step()) for _ in range(8)]
    assert said == [3] * 5 + [1] * 3
    assert len(forwards) == 4 + 5 + 3
    assert decoder.steps == 3 + 8


def test_one_token_costs_one_step_however_many_are_served(parts: Parts) -> None:
    decoder = parts.decoder()
    for slot in range(4):
        decoder.begin(slot, parts.question(GenerationRequest.about(noise(slot), "what is it?", 9)))
    said = [decoder.step() for _ in range(8)]
    assert [len(one) for one in said] == [4] * 8
    assert not decoder.busy
    assert decoder.steps == 8


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        *((family, Precision.NF4) for family in ("llava", "idefics3", "paligemma")),
        ("paligemma", Precision.INT4),
        ("idefics3", Precision.INT8),
    ],
)
def test_tokens_are_the_likeliest_by_the_model_itself(
    parts: Parts, tmp_path: Path, family: str, precision: Precision
) -> None:
    """Which reads prompt and answer in one piece, with another cache and another attention: so up to rounding."""
    mine = parts if family == "llava" else open_parts(tmp_path, family, precision)
    decoder = mine.decoder()
    for seed in (5, 6):
        image = noise(seed, width=56, height=40)
        question = mine.question(GenerationRequest.about(image, "is it?", 10))
        first, again = (alone(decoder, question, slot)[0] for slot in (2, 1))
        assert first == again, "read, or taken from what was kept"
        logits = mine.language.logits(question.prompt, [ImageFeatures(mine.features(image))], first)
        missing = logits.max(1) - logits[np.arange(len(first)), first]
        assert (missing <= 0.02 * np.ptp(logits, axis=1)).all()
        assert (missing == 0).mean() >= 0.6


def test_how_answers_end(parts: Parts) -> None:
    decoder = parts.decoder()
    ask = GenerationRequest.about(noise(2), "what is it?", 40)
    question = parts.question(ask)
    ids, text, ended = alone(decoder, question)
    assert (len(ids), ended) == (40, "limit")
    room = 30 - len(question.prompt.ids)
    short = parts.decoder(context=30)
    assert alone(short, parts.question(ask, context=30)) == (ids[:room], parts.prompter.text(ids[:room]), "context")
    stopping = GenerationRequest.about(noise(2), "what is it?", 40, stop=("nothing like it", text[7:9]))
    found, before, ended = alone(decoder, parts.question(stopping))
    assert ended == "stop_string"
    assert before == text[: text.index(text[7:9])].rstrip()
    assert found == ids[: len(found)]
    assert len(found) < 40


def test_a_token_that_ends_answers(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, question = parts.decoder(), parts.question(GenerationRequest.about(noise(2), "what is it?", 40))
    ids, _, _ = alone(decoder, question)
    last = ids[11]
    monkeypatch.setattr(parts.prompter, "settings", parts.prompter.settings.model_copy(update={"stop": (last,)}))
    assert alone(decoder, question)[::2] == (ids[: ids.index(last) + 1], "stop")


def test_a_slot_that_was_let_go_says_nothing(parts: Parts) -> None:
    decoder = parts.decoder()
    question = parts.question(GenerationRequest.about(noise(2), "what is it?", 40))
    expected = alone(decoder, question)
    decoder.begin(0, parts.question(GenerationRequest.about(noise(3), "where", 40)))
    decoder.begin(1, question)
    decoder.step()
    decoder.release(0)
    decoder.release(0)
    assert [said.slot for said in decoder.step()] == [1]
    decoder.release(1)
    assert not decoder.busy
    for _ in range(3):  # more steps than a slot has rows
        assert alone(decoder, question, slot=1) == expected


@pytest.mark.parametrize("options", [StepOptions(), StepOptions(masked=True, ahead=True)])
def test_what_is_not_a_number_ends_one_answer_and_leaves_nothing_behind(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, options: StepOptions
) -> None:
    """Features beyond FP16 become infinite in the language model."""
    decoder = parts.decoder(options=options)
    good = parts.question(GenerationRequest.about(noise(2), "what is it?", 12))
    expected = alone(decoder, good)
    decoder.begin(0, good)
    with monkeypatch.context() as patch:
        patch.setattr(parts.engine, "scale", 1e6)
        said = decoder.begin(1, parts.question(GenerationRequest.about(noise(9), "where" * 9, 12))).said
    assert said.token_id == -1
    with pytest.raises(EngineError, match="gave NaN or infinity for this request"):
        raise said.error or AssertionError("no error")
    rest = []
    while decoder.busy:
        rest += decoder.step()
    assert [one.token_id for one in rest] == expected[0][1:]
    assert alone(decoder, good, slot=1) == expected


def test_features_that_do_not_fill_the_places(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = parts.decoder()
    question = parts.question(GenerationRequest.about(noise(2), "what is it?", 12))
    three = {"image_features": np.zeros((1, 3, 64), np.float32)}
    monkeypatch.setattr(parts.engine, "run", lambda *_: three)
    with pytest.raises(EngineError, match="4 image tokens and 3 features"):
        decoder.begin(0, question)
    assert not decoder.busy


def test_a_model_whose_tokens_depend_on_the_batch_is_refused(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parts.language.model.config
    monkeypatch.setattr(config, "num_local_experts", 4, raising=False)
    with pytest.raises(ModelError, match="cannot be served with several requests at once"):
        parts.decoder()
