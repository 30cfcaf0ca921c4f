"""What happens between two steps, turn by turn, with a clock and a memory that the test sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from decoders import CONTEXT, Parts, noise, shared_parts
from numpy.typing import NDArray

from edgeq.errors import EdgeqError, EngineError
from edgeq.families.base import PIXELS
from edgeq.runtime.scheduler.admission import Admission, Rules
from edgeq.runtime.scheduler.errors import BusyError, ClosedError, DeadlineError, TooLargeError
from edgeq.runtime.scheduler.memory_watch import MemorySeen
from edgeq.runtime.scheduler.request import ActiveRequest
from edgeq.runtime.scheduler.request_memory import RequestMemory
from edgeq.runtime.scheduler.snapshot import Snapshot
from edgeq.runtime.scheduler.worker import Worker
from edgeq.runtime.vlm.api import GenerationRequest, Turn
from edgeq.runtime.vlm.batch_decoder import BatchDecoder
from edgeq.runtime.vlm.stream import Done, Event, Failed, Stream, Token
from edgeq.runtime.vlm.tokenize import PromptBuilder

NEEDS = RequestMemory(features=100, prefill=10, vision=20)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return shared_parts(tmp_path_factory)


@dataclass
class Bench:
    """A worker, and what it sees of the world."""

    parts: Parts
    decoder: BatchDecoder
    rules: Rules
    now: float = 100.0
    free: int = 1 << 40
    given_back: int = 0
    streams: list[Stream] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.worker = Worker(
            self.decoder,
            Admission(self.rules),
            look=lambda: MemorySeen(self.free, 0),
            give_back=self._give_back,
            clock=lambda: self.now,
        )

    def submit(self, ask: GenerationRequest, needs: RequestMemory = NEEDS, seconds: float | None = None) -> Stream:
        name = str(len(self.streams))
        stream = Stream(name, self.worker.cancel)
        question = PromptBuilder(self.parts.prompter, CONTEXT).question(ask)
        deadline = None if seconds is None else self.now + seconds
        self.worker.submit(ActiveRequest(name, question, stream, self.now, deadline), needs)
        self.streams.append(stream)
        return stream

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.worker.step()

    def finish(self) -> None:
        """Turn until nobody waits or runs."""
        while self.figures.active + self.figures.queued:
            self.worker.step()

    @property
    def figures(self) -> Snapshot:
        return self.worker.snapshot()

    def _give_back(self) -> None:
        self.given_back += 1


Make = Callable[..., Bench]


@pytest.fixture
def make(parts: Parts) -> Make:
    """A bench; `rules` as `Rules` has them."""

    def made(cache_bytes: int = 1 << 20, **rules: int) -> Bench:
        rules = {"budget": 1 << 30, "slots": 4, "queue": 16, "reserve": 1000, "margin": 500, **rules}
        return Bench(parts, parts.decoder(slots=rules["slots"], cache_bytes=cache_bytes), Rules(**rules))

    return made


def ask(number: int = 0, tokens: int = 6, **more: tuple[str, ...]) -> GenerationRequest:
    return GenerationRequest.about(noise(number), "what is it?", tokens, **more)  # type: ignore[arg-type]


def pixels(parts: Parts, number: int) -> NDArray[np.float32]:
    """An image as the vision graph is given it."""
    found: NDArray[np.float32] = parts.prompter.pixels(noise(number)).feeds[PIXELS]
    return found


def end(stream: Stream) -> Done:
    """The end of an answer, whose pieces make its text."""
    *pieces, last = stream
    assert isinstance(last, Done)
    assert "".join(piece.text for piece in pieces if isinstance(piece, Token)) == last.text
    return last


def fault(stream: Stream) -> EdgeqError:
    *_, last = stream
    assert isinstance(last, Failed)
    return last.error


def settled(bench: Bench) -> None:
    """Nothing is left of any request."""
    figures = bench.figures
    assert (figures.active, figures.queued, figures.reserved_bytes) == (0, 0, 0)
    assert (figures.kv_used_bytes, figures.kv_reserved_bytes, figures.longest) == (0, 0, 0)
    assert not bench.decoder.busy
    assert sum(figures.ended.values()) == figures.submitted


def test_requests_join_one_by_one_and_their_answers_end_them(make: Make, parts: Parts) -> None:
    bench = make()
    streams = [bench.submit(ask(number)) for number in range(3)]
    bench.turns(1)
    assert bench.figures.first_tokens == 1, "one prompt is read between two steps"
    bench.turns(2)
    figures = bench.figures
    assert figures.first_tokens == 3
    assert figures.answer_tokens == (1 + 3) + (1 + 2) + (1 + 1), "a first token at the start, and one at each step"
    prompt = len(parts.question(ask()).prompt.ids)
    assert figures.kv_used_bytes == (3 * prompt + 3 + 2 + 1) * bench.decoder.token_bytes
    assert figures.kv_reserved_bytes == 3 * (prompt + 6) * bench.decoder.token_bytes
    assert figures.reserved_bytes == 3 * 100 + 10 + 20
    assert (figures.longest, figures.context) == (prompt + 3, CONTEXT), "the first has come furthest"
    bench.finish()
    assert [end(stream).reason for stream in streams] == ["limit"] * 3
    settled(bench)


def test_usage(make: Make, parts: Parts) -> None:
    bench = make(slots=1)
    bench.submit(ask(tokens=3))
    second = bench.submit(ask(tokens=3))
    for _ in range(4):
        bench.now += 1
        bench.turns(1)
    usage = end(second).usage
    prompt = len(parts.question(ask()).prompt.ids)
    assert (usage.prompt_tokens, usage.image_tokens, usage.cached_tokens) == (prompt, 4, 5)
    assert (usage.answer_tokens, usage.encoder_cache_hit) == (3, True)
    assert (usage.queue_seconds, usage.first_token_seconds, usage.seconds) == (3, 3, 4)
    figures = bench.figures
    assert (figures.first_token_seconds, figures.decode_tokens, figures.decode_seconds) == (1 + 3, 4, 2)
    assert (figures.prompt_tokens, figures.cached_tokens) == (2 * prompt, 5)
    assert (figures.prefixes.hits, figures.prefixes.misses) == (1, 1)


def test_a_conversation_grows_in_what_is_kept_of_it(make: Make) -> None:
    """A second image in a later turn: all up to the first image is not read again, and the encoder sees the second."""
    bench = make(slots=1)
    first = Turn.said("user", "what?", images=1)
    turns = (first, Turn.said("assistant", "a crack"), Turn.said("user", "and here?", images=1))
    bench.submit(GenerationRequest((noise(0),), (first,), 3))
    bench.finish()
    before = bench.figures
    grown = bench.submit(GenerationRequest((noise(0), noise(1)), turns, 3))
    again = bench.submit(GenerationRequest((noise(0), noise(1)), turns, 3))
    bench.finish()
    done, known = end(grown), end(again)
    usage, repeated = done.usage, known.usage
    assert (usage.image_tokens, usage.cached_tokens, usage.encoder_cache_hit) == (8, 5, False)
    assert (repeated.cached_tokens, repeated.encoder_cache_hit) == (5 + len("what?a crack") + 4, True)
    assert bench.figures.cached_tokens - before.cached_tokens == usage.cached_tokens + repeated.cached_tokens
    assert known.token_ids == done.token_ids


def test_a_request_that_is_not_wanted_any_more_ends_at_the_next_turn(make: Make) -> None:
    bench = make(slots=2)
    running, other, waiting = (bench.submit(ask(number, 30)) for number in range(3))
    bench.turns(5)
    running.cancel()
    running.cancel()
    waiting.cancel()
    bench.turns(1)
    done = end(running)
    assert (done.reason, done.usage.answer_tokens) == ("cancelled", 1 + 5)
    unheard = end(waiting)
    assert (unheard.reason, unheard.token_ids) == ("cancelled", ())
    bench.finish()
    assert end(other).usage.answer_tokens == 30
    other.cancel()
    bench.turns(1)
    settled(bench)


def test_cancelled_before_it_was_begun(make: Make) -> None:
    bench = make(slots=1)
    first = bench.submit(ask(0))
    first.cancel()
    second = bench.submit(ask(1))
    bench.finish()
    assert (end(first).reason, end(second).reason) == ("cancelled", "limit")
    settled(bench)


def test_deadlines_of_those_that_run_and_those_that_wait(make: Make) -> None:
    bench = make(slots=1)
    running = bench.submit(ask(0, 30), seconds=10)
    waiting = bench.submit(ask(1), seconds=5)
    patient = bench.submit(ask(2), seconds=50)
    bench.turns(3)
    bench.now += 5
    bench.turns(1)
    late = fault(waiting)
    assert isinstance(late, DeadlineError)
    assert late.answer_tokens == 0
    bench.now += 5
    bench.turns(1)
    late = fault(running)
    assert isinstance(late, DeadlineError)
    assert late.answer_tokens == 1 + 4
    bench.finish()
    assert end(patient).reason == "limit"
    assert bench.figures.ended == {"deadline": 2, "limit": 1}
    settled(bench)


def test_a_deadline_that_comes_at_once(make: Make) -> None:
    bench = make()
    stream = bench.submit(ask(), seconds=0)
    bench.turns(1)
    assert isinstance(fault(stream), DeadlineError)
    settled(bench)


def test_what_is_refused(make: Make) -> None:
    bench = make(slots=1, queue=1, budget=1000)
    with pytest.raises(TooLargeError, match="needs 1,030 bytes, and there are 1,000") as large:
        bench.submit(ask(), needs=RequestMemory(features=1000, prefill=10, vision=20))
    assert (large.value.needed, large.value.budget) == (1030, 1000)
    bench.submit(ask())
    bench.submit(ask())
    with pytest.raises(BusyError) as busy:
        bench.submit(ask())
    assert busy.value.retry_after_s >= 1
    bench.worker.close(drain=True)
    with pytest.raises(ClosedError):
        bench.submit(ask())
    bench.finish()
    assert bench.figures.ended == {"too_large": 1, "busy": 1, "limit": 2}
    settled(bench)


def test_an_image_on_which_the_vision_graph_fails_takes_nobody_with_it(
    make: Make, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor gives the first image's first pixel a lower value than the others'."""
    firsts = {number: float(pixels(parts, number)[0, 0, 0, 0]) for number in range(4)}
    dark = min(firsts, key=lambda number: firsts[number])
    monkeypatch.setattr(parts.engine, "blind", firsts[dark] + 1e-6)
    bench = make(slots=2)
    streams = {number: bench.submit(ask(number)) for number in range(4)}
    bench.finish()
    for number, stream in streams.items():
        if number == dark:
            assert isinstance(fault(stream), EngineError)
        else:
            assert end(stream).reason == "limit"
    assert bench.figures.ended == {"failed": 1, "limit": 3}
    settled(bench)


def test_a_step_that_fails_ends_those_in_it_and_no_others(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(slots=2)
    streams = [bench.submit(ask(number)) for number in range(3)]
    bench.turns(2)

    def broken() -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(bench.decoder._step, "forward", broken)
        bench.turns(1)
    errors = [fault(stream) for stream in streams[:2]]
    assert all("RuntimeError: out of memory" in error.causes for error in errors)
    bench.finish()
    assert end(streams[2]).reason == "limit"
    settled(bench)


def test_caches_give_way_to_requests(make: Make) -> None:
    """The budget holds a request of 600 bytes, or what is kept of one image (5 x 512 of KV, 4 x 64 x 2 of features)."""
    bench = make(budget=3300)
    bench.submit(ask(0))
    bench.finish()
    kept = bench.figures
    assert (kept.prefixes.bytes, kept.features.bytes) == (5 * bench.decoder.token_bytes, 512) == (2560, 512)
    bench.submit(ask(1), needs=RequestMemory(features=600))
    bench.turns(1)
    now = bench.figures
    assert now.prefixes.bytes + now.features.bytes <= 3300 - 600
    bench.finish()
    settled(bench)


def test_too_little_free_memory_empties_the_caches_and_holds_new_work(make: Make) -> None:
    bench = make(reserve=1000, margin=500)
    bench.submit(ask(0))
    bench.finish()
    assert bench.figures.prefixes.entries == 2, "up to the image, and the whole prompt"
    bench.free, bench.now = 10, bench.now + 2
    bench.turns(1)
    assert (bench.decoder.kept.bytes, bench.given_back) == (0, 1)
    bench.now += 2
    bench.turns(1)
    held = bench.submit(ask(1))
    bench.turns(3)
    assert (bench.figures.held, bench.figures.queued, bench.figures.memory_free_bytes) == (True, 1, 10)
    bench.free, bench.now = 1 << 40, bench.now + 2
    bench.finish()
    assert end(held).reason == "limit"
    assert not bench.figures.held


def test_closing_without_waiting(make: Make) -> None:
    bench = make(slots=1)
    streams = [bench.submit(ask(number, 30)) for number in range(2)]
    bench.turns(2)
    assert bench.worker.wait()
    bench.worker.close(drain=False)
    assert bench.worker.wait(), "they must be told"
    bench.turns(1)
    assert [end(stream).reason for stream in streams] == ["cancelled"] * 2
    assert not bench.worker.wait()
    settled(bench)


def test_whoever_is_left_when_the_worker_breaks_is_told(make: Make) -> None:
    bench = make(slots=1)
    streams = [bench.submit(ask(number)) for number in range(3)]
    bench.turns(2)
    error = EngineError("the runtime has stopped")
    bench.worker.abandon(error)
    assert [fault(stream) for stream in streams] == [error] * 3
    with pytest.raises(ClosedError):
        bench.submit(ask())
    settled(bench)


def test_all_slots_and_reservations_come_back_from_any_mixture(make: Make) -> None:
    """60 requests, of which each third is cancelled at some turn and each fifth comes too late."""
    bench = make(slots=3, queue=60, budget=5000)
    events: list[Event] = []
    for number in range(60):
        seconds = float(number % 7) if number % 5 == 0 else None
        stream = bench.submit(ask(number % 6, 1 + number % 9, stop=("a",) if number % 4 else ()), seconds=seconds)
        bench.turns(number % 3)
        if number % 3 == 0:
            stream.cancel()
        bench.now += 0.25
        assert bench.figures.reserved_bytes <= 5000
    bench.finish()
    events = [list(stream)[-1] for stream in bench.streams]
    assert all(isinstance(event, Done | Failed) for event in events)
    assert {"cancelled", "deadline", "limit"} <= set(bench.figures.ended)
    settled(bench)
