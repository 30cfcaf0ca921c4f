"""The runtime as its users have it: asked from several threads and from an event loop, and opened from a bundle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from decoders import CONTEXT, Parts, noise, shared_parts

from edgeq.errors import EngineError, InputError
from edgeq.pipeline.vlm import PreparedVlm
from edgeq.runtime.scheduler.admission import Admission, Rules
from edgeq.runtime.scheduler.errors import BusyError, ClosedError, ContextError, DeadlineError
from edgeq.runtime.scheduler.memory_watch import MemorySeen
from edgeq.runtime.scheduler.request_memory import RequestMemory
from edgeq.runtime.scheduler.runtime import Runtime, RuntimeOptions, open_runtime
from edgeq.runtime.scheduler.worker import Worker
from edgeq.runtime.vlm import threads
from edgeq.runtime.vlm.api import GenerationRequest, SamplingParams
from edgeq.runtime.vlm.decode_step import DecodeStep
from edgeq.runtime.vlm.model import open_vlm
from edgeq.runtime.vlm.stream import Done, Failed, Stream, Token
from edgeq.runtime.vlm.tokenize import PromptBuilder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return shared_parts(tmp_path_factory)


@contextmanager
def running(parts: Parts, *, queue: int = 16) -> Iterator[Runtime]:
    """A runtime of two slots."""
    worker = Worker(
        parts.decoder(slots=2),
        Admission(Rules(budget=1 << 30, slots=2, queue=queue)),
        look=lambda: MemorySeen(1 << 40, 0),
        give_back=lambda: None,
        clock=time.monotonic,
    )
    with Runtime(
        PromptBuilder(parts.prompter, CONTEXT), worker, lambda _: RequestMemory(features=1), parts.prompter.settings
    ) as made:
        yield made


def answer(stream: Stream) -> Done:
    *pieces, last = stream
    assert isinstance(last, Done)
    assert "".join(piece.text for piece in pieces if isinstance(piece, Token)) == last.text
    return last


def asks() -> list[GenerationRequest]:
    sampling = [SamplingParams(number % 2 * 0.9, seed=number) for number in range(12)]
    return [
        GenerationRequest.about(noise(number % 3), "what is it?", 4 + number, sampling=sampling[number])
        for number in range(12)
    ]


def test_threads_get_what_each_would_get_alone(parts: Parts) -> None:
    with running(parts) as runtime:
        alone = [answer(runtime.submit(ask)).token_ids for ask in asks()]
        with ThreadPoolExecutor(6) as threads:
            together = list(threads.map(lambda ask: answer(runtime.submit(ask)).token_ids, asks()))
        assert together == alone
        figures = runtime.snapshot()
    assert (figures.slots, figures.submitted, sum(figures.ended.values())) == (2, 24, 24)
    assert figures.answer_tokens == 2 * sum(len(ids) for ids in alone)
    assert not runtime.alive


def test_an_event_loop_goes_on_while_it_waits(parts: Parts) -> None:
    async def read(stream: Stream) -> list[Token | Done | Failed]:
        return [event async for event in stream]

    async def scenario(runtime: Runtime) -> list[list[Token | Done | Failed]]:
        streams = [await asyncio.to_thread(runtime.submit, ask) for ask in asks()]
        return await asyncio.gather(*(read(stream) for stream in streams))

    with running(parts) as runtime:
        expected = [answer(runtime.submit(ask)).token_ids for ask in asks()]
        found = asyncio.run(scenario(runtime))
    ends = [events[-1] for events in found]
    assert [end.token_ids for end in ends if isinstance(end, Done)] == expected
    assert all(isinstance(event, Token) for events in found for event in events[:-1])


def test_whoever_stops_listening_frees_the_slot(parts: Parts) -> None:
    """Both slots are taken by answers that nobody hears to the end; the third gets one of them."""

    async def first_piece(stream: Stream) -> None:
        async for _ in stream:
            break
        stream.cancel()

    with running(parts) as runtime:
        asyncio.run(first_piece(runtime.submit(GenerationRequest.about(noise(1), "what is it?", 80))))
        runtime.submit(GenerationRequest.about(noise(2), "what is it?", 80)).cancel()
        assert answer(runtime.submit(GenerationRequest.about(noise(3), "what is it?", 5))).usage.answer_tokens == 5
    assert runtime.snapshot().ended == {"cancelled": 2, "limit": 1}


def test_deadline_and_refusals(parts: Parts) -> None:
    with running(parts, queue=0) as runtime:
        *_, last = runtime.submit(asks()[0], deadline_s=0)
        assert isinstance(last, Failed)
        assert isinstance(last.error, DeadlineError)
        with pytest.raises(ContextError, match="the conversation is too long") as long_one:
            runtime.submit(GenerationRequest.about(noise(1), "what is it? " * 20))
        told = long_one.value
        assert (told.tokens, told.image_tokens, told.context) == (1 + 4 + 12 * 20 + 1, 4, CONTEXT)
        long = [runtime.submit(GenerationRequest.about(noise(1), "what is it?", 80)) for _ in range(2)]
        with pytest.raises(BusyError):
            runtime.submit(asks()[0])
        for stream in long:
            stream.cancel()
    with pytest.raises(ClosedError):
        runtime.submit(asks()[0])


def test_closing_lets_answers_end_or_not(parts: Parts) -> None:
    with running(parts) as runtime:
        streams = [runtime.submit(ask) for ask in asks()[:5]]
    assert {answer(stream).reason for stream in streams} == {"limit"}
    with running(parts) as runtime:
        streams = [runtime.submit(GenerationRequest.about(noise(number), "what is it?", 80)) for number in range(5)]
        runtime.close(drain=False)
    assert {answer(stream).reason for stream in streams} <= {"cancelled", "limit"}
    assert runtime.snapshot().ended["cancelled"] >= 3


def test_a_worker_that_breaks_tells_everybody(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise AssertionError("a bug")

    with running(parts) as runtime:
        monkeypatch.setattr(runtime._worker, "_begin", broken)
        *_, last = runtime.submit(asks()[0])
        assert isinstance(last, Failed)
        assert isinstance(last.error, EngineError)
        assert last.error.causes == ("AssertionError: a bug",)
        runtime._thread.join()
        assert not runtime.alive
        with pytest.raises(ClosedError):
            runtime.submit(asks()[0])


def test_a_bundle_is_opened_and_answers_as_its_pair_does(prepared_vlm: PreparedVlm) -> None:
    """Up to near ties, as the pair reads the prompt in one piece; and the same again from what was kept."""
    image = noise(4, 60, 60)
    vlm = open_vlm(prepared_vlm.bundle, threads=1)
    with open_runtime(prepared_vlm.bundle, RuntimeOptions(threads=1)) as runtime:
        first, again = (answer(runtime.submit(GenerationRequest.about(image, "what is it?", 8))) for _ in range(2))
        figures = runtime.snapshot()
    assert (first.token_ids, first.text) == (again.token_ids, again.text)
    assert (first.usage.cached_tokens, again.usage.cached_tokens) == (0, 5)
    logits = vlm.logits(image, "what is it?", first.token_ids)
    chosen = logits[range(len(first.token_ids)), list(first.token_ids)]
    assert (logits.max(1) - chosen <= 0.02 * (logits.max(1) - logits.min(1))).all()
    assert figures.slots == 4
    assert figures.kv_bytes == 4 * 128 * (2 * 2 * 2 * 16 * 4), (
        "65 rows in blocks of 64, 2 layers, 2 heads of 16, float32"
    )


def test_a_shorter_context_than_the_bundles(prepared_vlm: PreparedVlm) -> None:
    with open_runtime(prepared_vlm.bundle, RuntimeOptions(threads=1, context=24, slots=1)) as runtime:
        done = answer(runtime.submit(GenerationRequest.about(noise(1), "what is it?", 60)))
        assert done.usage.prompt_tokens + done.usage.answer_tokens == 24
        assert done.reason == "context"
        with pytest.raises(InputError, match="the context is 24"):
            runtime.submit(GenerationRequest.about(noise(1), "what is it, if it is anything at all?"))
        assert runtime.settings.context == 24


def test_options_out_of_range() -> None:
    ranges: list[dict[str, Any]] = [{"slots": 0}, {"queue": -1}, {"context": 0}, {"budget_bytes": 0}]
    for wrong in (*ranges, {"fused_prefill_rows": -1}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} is"):
            replace(RuntimeOptions(), **wrong)


@pytest.mark.parametrize("chosen", [1, None])
def test_shapes_of_steps_are_tried_once_with_the_threads_that_answer(
    prepared_vlm: PreparedVlm, monkeypatch: pytest.MonkeyPatch, chosen: int | None
) -> None:
    """With other threads than before, and with the same; which ones are quickest is simulated."""
    before = torch.get_num_threads()
    tried: list[int] = []
    equal_shapes = DecodeStep._equal_shapes

    def tune(run: Callable[[], object]) -> int:
        run()
        torch.set_num_threads(chosen or before)
        return chosen or before

    def counted(step: DecodeStep) -> object:
        tried.append(torch.get_num_threads())
        return equal_shapes(step)

    monkeypatch.setattr(threads, "tune_threads", tune)
    monkeypatch.setattr(DecodeStep, "_equal_shapes", counted)
    try:
        with open_runtime(prepared_vlm.bundle, RuntimeOptions(slots=2)):
            assert tried == [chosen or before]
    finally:
        torch.set_num_threads(before)
