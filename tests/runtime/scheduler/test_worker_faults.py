"""Memory that runs out, an accelerator that is lost, a slot that cannot be let go: who is told, and what goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cuda_errors import LOST, NO_MEMORY
from decoders import CONTEXT, Parts, noise, shared_parts

from edgeq.errors import DeviceLostError, EdgeqError, EngineError, OutOfMemoryError
from edgeq.runtime.scheduler.admission import Admission, Rules
from edgeq.runtime.scheduler.errors import ClosedError
from edgeq.runtime.scheduler.memory_watch import MemorySeen
from edgeq.runtime.scheduler.request_memory import RequestMemory
from edgeq.runtime.scheduler.runtime import Runtime
from edgeq.runtime.scheduler.worker import Worker
from edgeq.runtime.vlm.api import GenerationRequest
from edgeq.runtime.vlm.batch_decoder import BatchDecoder
from edgeq.runtime.vlm.stream import Done, Failed, Stream
from edgeq.runtime.vlm.tokenize import PromptBuilder

WAIT_S = 30.0
LONG = 60


class Flaky:
    """A decoder whose calls fail as a test says; each call is written down.

    Attributes:
        faults: by the name of a call, the errors that its next calls raise.
        calls: names, in order.
    """

    def __init__(self, decoder: BatchDecoder) -> None:
        self._decoder = decoder
        self.faults: dict[str, list[BaseException]] = {}
        self.calls: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._decoder, name)
        if name not in ("begin", "step", "release"):
            return found

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name == "step":
                assert self.gate.wait(WAIT_S)
            if self.faults.get(name):
                raise self.faults[name].pop(0)
            return found(*arguments)

        return call


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return shared_parts(tmp_path_factory)


Given = tuple[Runtime, Flaky]


@contextmanager
def running(
    parts: Parts,
    slots: int = 3,
    given_back: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Given]:
    """A runtime over a flaky decoder."""
    decoder = Flaky(parts.decoder(slots=slots))
    rules = Rules(budget=1 << 30, slots=slots, reserve=0, margin=0)
    worker = Worker(
        decoder,  # type: ignore[arg-type]
        Admission(rules),
        look=lambda: MemorySeen(1 << 40, 0),
        give_back=given_back,
        clock=clock,
    )
    needs = RequestMemory(features=100)
    builder = PromptBuilder(parts.prompter, CONTEXT)
    runtime = Runtime(builder, worker, lambda _: needs, parts.prompter.settings, clock=clock)
    try:
        yield runtime, decoder
    finally:
        decoder.gate.set()
        runtime.close(drain=False)


def ask(number: int, tokens: int = 4) -> GenerationRequest:
    return GenerationRequest.about(noise(number), "what is it?", tokens)


def end(stream: Stream) -> Done | Failed:
    """The last event; a stream without one would wait for ever, so a thread waits."""
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.extend(stream), daemon=True)
    reader.start()
    reader.join(WAIT_S)
    assert not reader.is_alive(), "a stream without an end"
    assert isinstance(found[-1], Done | Failed)
    return found[-1]


def fault(stream: Stream) -> EdgeqError:
    last = end(stream)
    assert isinstance(last, Failed)
    return last.error


def until(given: Runtime, active: int) -> None:
    """So many have begun."""
    for _ in range(int(WAIT_S / 0.002)):
        if given.snapshot().first_tokens >= active:
            return
        time.sleep(0.002)
    raise AssertionError("not begun")


@pytest.mark.parametrize("call", ["begin", "step"])
@pytest.mark.parametrize("error", [*LOST[:2], RuntimeError("NvMapMemCacheMaint: error 14")], ids=str)
def test_a_lost_accelerator_ends_everything_and_is_called_no_more(parts: Parts, error: Exception, call: str) -> None:
    """Two run, one is lost on, two wait: all are told, and the service can see it."""
    with running(parts) as (runtime, decoder):
        decoder.gate.clear()
        streams = [runtime.submit(ask(0, LONG)), runtime.submit(ask(1, LONG))]
        if call == "begin":
            until(runtime, 1)  # the first has begun, and the step after it waits
            decoder.faults["begin"] = [error]
        else:
            decoder.faults["step"] = [error]
        streams += [runtime.submit(ask(number, LONG)) for number in range(2, 5)]
        decoder.gate.set()
        errors = [fault(stream) for stream in streams]
        assert all(isinstance(one, DeviceLostError) for one in errors)
        assert all(type(error).__name__ in one.causes[0] for one in errors)
        assert not runtime.alive
        with pytest.raises(ClosedError):
            runtime.submit(ask(9))
        runtime._thread.join(WAIT_S)
        assert decoder.calls[-1] == call, "nothing is asked of the accelerator any more, not to let a slot go either"
        figures = runtime.snapshot()
    assert (figures.active, figures.queued, figures.reserved_bytes) == (0, 0, 0)
    assert figures.ended == {"failed": 5}


def test_the_vision_encoder_loses_it_too(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_feeds: object, _outputs: object = None) -> object:
        raise EngineError("ONNX Runtime failed while running the graph") from LOST[0]

    with running(parts) as (runtime, decoder):
        monkeypatch.setattr(parts.engine, "run", run)
        assert isinstance(fault(runtime.submit(ask(41))), DeviceLostError)
        runtime._thread.join(WAIT_S)
        assert (runtime.alive, decoder.calls) == (False, ["begin"])


@pytest.mark.parametrize("release", [RuntimeError("a bug"), LOST[0]], ids=str)
def test_a_step_that_fails_tells_all_in_it_though_no_slot_can_be_let_go(parts: Parts, release: Exception) -> None:
    with running(parts) as (runtime, decoder):
        decoder.gate.clear()
        streams = [runtime.submit(ask(number, LONG)) for number in range(3)]
        decoder.faults = {"step": [RuntimeError("it broke")], "release": [release] * 9}
        streams.append(runtime.submit(ask(3)))
        decoder.gate.set()
        assert all(isinstance(fault(stream), EngineError) for stream in streams)
        runtime._thread.join(WAIT_S)
        assert not runtime.alive


def test_an_end_is_told_before_the_slot_is_let_go(parts: Parts) -> None:
    """One is cancelled, and its slot cannot be let go: it is told so, and the other one that nothing goes on."""
    with running(parts, slots=2) as (runtime, decoder):
        decoder.gate.clear()
        cancelled, other = runtime.submit(ask(0, LONG)), runtime.submit(ask(1, LONG))
        until(runtime, 1)
        decoder.faults["release"] = [RuntimeError("a bug")] * 9
        cancelled.cancel()
        decoder.gate.set()
        last = end(cancelled)
        assert isinstance(last, Done)
        assert last.reason == "cancelled"
        assert isinstance(fault(other), EngineError)


def test_a_deadline_is_told_before_the_slot_is_let_go(parts: Parts) -> None:
    now = [100.0]
    with running(parts, slots=2, clock=lambda: now[0]) as (runtime, decoder):
        decoder.gate.clear()
        late = runtime.submit(ask(0, LONG), deadline_s=10)
        decoder.faults["release"] = [LOST[0]] * 9
        until(runtime, 1)
        now[0] += 10
        other = runtime.submit(ask(1, LONG))
        decoder.gate.set()
        assert "deadline" in fault(late).what
        assert isinstance(fault(other), DeviceLostError)


def test_a_library_that_ends_the_thread_leaves_nobody_waiting(parts: Parts) -> None:
    with running(parts) as (runtime, decoder):
        decoder.faults["step"] = [SystemExit(1)]
        assert "the runtime has stopped" in fault(runtime.submit(ask(0, LONG))).what
        assert not runtime.alive


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_memory_that_runs_out_on_a_prompt_is_that_requests_alone(parts: Parts, error: Exception) -> None:
    back: list[int] = []
    with running(parts, given_back=lambda: back.append(1)) as (runtime, decoder):
        assert isinstance(end(runtime.submit(ask(0))), Done)
        assert decoder.kept.bytes > 0
        decoder.gate.clear()
        other = runtime.submit(ask(1, 20))
        until(runtime, 2)
        decoder.faults["begin"] = [error]
        hungry = runtime.submit(ask(2))
        decoder.gate.set()
        told = fault(hungry)
        assert isinstance(told, OutOfMemoryError)
        assert isinstance(end(other), Done)
        assert decoder.kept.bytes == 0, "caches give up what they hold"
        assert isinstance(end(runtime.submit(ask(3))), Done)
        assert runtime.alive
        assert back
        assert runtime.snapshot().ended == {"limit": 3, "out_of_memory": 1}


def test_memory_that_runs_out_in_a_step_ends_those_in_it(parts: Parts) -> None:
    with running(parts, slots=2) as (runtime, decoder):
        decoder.gate.clear()
        streams = [runtime.submit(ask(number, 20)) for number in range(2)]
        until(runtime, 1)
        decoder.faults["step"] = [NO_MEMORY[0]]
        decoder.gate.set()
        ends = [end(stream) for stream in streams]
        assert isinstance(ends[0], Failed)
        assert isinstance(ends[0].error, OutOfMemoryError)
        assert isinstance(end(runtime.submit(ask(3))), Done)
        assert runtime.alive
