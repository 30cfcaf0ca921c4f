"""A vision-language model through the product's runtime: image, first token, further tokens, several clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from edgeq.bench.times import Times, times_of
from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.device import DeviceProfile
from edgeq.engine import Engine
from edgeq.errors import EngineError
from edgeq.runtime.scheduler.runtime import Runtime, RuntimeOptions, start_runtime
from edgeq.runtime.vlm.api import GenerationRequest
from edgeq.runtime.vlm.model import VisionLanguageModel, load_vlm
from edgeq.runtime.vlm.prompt import Prompter
from edgeq.runtime.vlm.stream import Done, Failed

__all__ = [
    "AnswerFigures",
    "AnswerLoad",
    "ClientsFigures",
    "clients_figures",
    "endless_model",
    "fresh_requests",
    "measure_answers",
]

AGAIN: Final = "What else is there?"
"""Asked about an image that was asked about just now."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AnswerLoad:
    """What is asked.

    Attributes:
        picture: mode RGB, which is shifted by a column for each request, so that no request finds its features kept.
        question: about it.
        tokens: of each answer.
        repeats: that are timed.
        warmup: before them, and not timed.
        clients: how many ask at once, in the order in which they are measured; 1 is measured in any case.
    """

    picture: Image.Image
    question: str
    tokens: int
    repeats: int
    warmup: int
    clients: tuple[int, ...]


class ClientsFigures(BaseModel):
    """So many clients, each of whom asks again as soon as it has its answer.

    Attributes:
        clients: at once.
        requests: answered.
        tokens: of all answers.
        seconds: from the first question to the last token.
        tokens_per_second: of all clients together.
        first_token, answer: of a request, to its first token and to its end.
        ceiling_tokens_per_second: that many sequences at once could come to, reading images and prompts left out; None
            where it is not known.
        percent: of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    clients: int
    requests: int
    tokens: int
    seconds: float
    tokens_per_second: float
    first_token: Times
    answer: Times
    ceiling_tokens_per_second: float | None = None
    percent: float | None = None


class AnswerFigures(BaseModel):
    """What was measured. Of one client, unless said.

    Attributes:
        context: tokens of a request, at most.
        slots: requests that the runtime answers at once.
        prompt_tokens, image_tokens: of a request.
        answer_tokens: of each answer, none of which the model may end itself.
        preparing: the image processor's work on an image.
        image: the vision encoder's.
        first_token: from a question about a new image.
        first_token_again: from another question about the same image.
        token: from one token to the next, the mean of each answer.
        decode_tokens_per_second: by the median of these.
        prefill_tokens_per_second: of the prompt: the median to the first token, less the image's; None where that is
            less than the image's own.
        clients: one row for each number of clients.
        decode_percent, prefill_percent, image_percent: of the ceiling; None where that is not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    context: int
    slots: int
    prompt_tokens: int
    image_tokens: int
    answer_tokens: int
    preparing: Times
    image: Times
    first_token: Times
    first_token_again: Times
    token: Times
    decode_tokens_per_second: float
    prefill_tokens_per_second: float | None
    clients: tuple[ClientsFigures, ...]
    decode_percent: float | None = None
    prefill_percent: float | None = None
    image_percent: float | None = None


def endless_model(bundle: Path, engine: Engine, threads: int | None) -> VisionLanguageModel:
    """A bundle's model, none of whose tokens ends an answer: so each answer has as many as were asked for.

    Args:
        bundle: that was checked.
        engine: with its vision graph.
        threads: of one operator; None takes every processor there is.

    Raises:
        ModelError: the language model, the tokenizer or the image processor cannot be loaded.
        EngineError: a package is missing.
    """
    settings = VlmSettings.of(bundle).model_copy(update={"stop": ()})
    return replace(load_vlm(bundle, engine=engine, threads=threads), prompter=Prompter.open(bundle, settings))


def measure_answers(
    bundle: Path,
    vlm: VisionLanguageModel,
    load: AnswerLoad,
    device: DeviceProfile,
    *,
    threads: int | None = None,
    report: Progress | None = None,
) -> AnswerFigures:
    """Measure everything; the model belongs to the runtime afterwards, which is closed.

    Args:
        bundle: that was checked.
        vlm: from `endless_model`.
        load: what is asked.
        device: from `edgeq.runtime.scheduler.budget.serving_device`, asked before the model was loaded.
        threads: as it was loaded with.
        report: called as it goes on.

    Raises:
        InputError: memory does not suffice for one request, or the question leaves no room for an answer.
        EngineError: the vision graph fails.
    """
    say = report or (lambda _stage, _done, _total: None)
    preparing, image = _encoder(vlm, load, say)
    options = RuntimeOptions(queue=max((16, *load.clients)), threads=threads)
    fresh = fresh_requests(load)
    with start_runtime(vlm, bundle, options, device) as runtime:
        for _ in range(load.warmup):
            _ask(runtime, next(fresh))
        alone = _one_after_the_other(runtime, fresh, load, say)
        again = _again(runtime, fresh, load, say)
        rows = [_together(runtime, fresh, load, clients, say) for clients in load.clients if clients > 1]
        slots, context = runtime.snapshot().slots, runtime.settings.context
    usage = alone[0].done.usage
    tokens = [(one.done.usage.seconds - one.first) / (one.tokens - 1) for one in alone if one.tokens > 1]
    token = times_of(tokens or [one.first for one in alone])
    reading = median(one.first for one in alone) - image.p50_ms / 1e3
    return AnswerFigures(
        context=context,
        slots=slots,
        prompt_tokens=usage.prompt_tokens,
        image_tokens=usage.image_tokens,
        answer_tokens=alone[0].tokens,
        preparing=preparing,
        image=image,
        first_token=times_of([one.first for one in alone]),
        first_token_again=times_of(again),
        token=token,
        decode_tokens_per_second=1e3 / token.p50_ms,
        prefill_tokens_per_second=usage.prompt_tokens / reading if reading > 0 else None,
        clients=(_figures(1, alone, sum(one.total for one in alone)), *rows),
    )


@dataclass(frozen=True)
class _Answered:
    """One answer, by the runtime's clock and by the client's.

    Attributes:
        done: its end.
        total: seconds from before it was submitted to its end, by the client's clock.
    """

    done: Done
    total: float

    @property
    def tokens(self) -> int:
        """That were said."""
        return len(self.done.token_ids)

    @property
    def first(self) -> float:
        """Seconds from its submission to the first token."""
        return self.done.usage.first_token_seconds


def fresh_requests(load: AnswerLoad) -> Iterator[GenerationRequest]:
    """Requests about images that nobody has asked about before, for ever."""
    pixels = np.asarray(load.picture)
    for number in count():
        moved = np.roll(pixels, number % pixels.shape[1], axis=1)
        moved[0, 0] = [number % 256, number // 256 % 256, number // 65_536 % 256]
        yield GenerationRequest.about(Image.fromarray(moved), load.question, load.tokens)


def _ask(runtime: Runtime, ask: GenerationRequest) -> _Answered:
    """Ask, and wait for the end; raises the error of a request that failed."""
    start = time.perf_counter()
    for event in runtime.submit(ask):
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Done):
            return _Answered(event, time.perf_counter() - start)
    raise EngineError("an answer has no end")


def _encoder(vlm: VisionLanguageModel, load: AnswerLoad, say: Progress) -> tuple[Times, Times]:
    """The image processor and the vision encoder, before the runtime has them."""
    preparing, encoding = [], []
    for number, ask in zip(range(load.warmup + load.repeats), fresh_requests(load), strict=False):
        say("images", number, load.warmup + load.repeats)
        (picture,) = ask.images
        assert isinstance(picture, Image.Image)
        start = time.perf_counter()
        pixels = vlm.prompter.pixels(picture)
        ready = time.perf_counter()
        vlm.vision_encoder.encode(pixels.feeds)
        preparing.append(ready - start)
        encoding.append(time.perf_counter() - ready)
    return times_of(preparing[load.warmup :]), times_of(encoding[load.warmup :])


def _one_after_the_other(
    runtime: Runtime, fresh: Iterator[GenerationRequest], load: AnswerLoad, say: Progress
) -> list[_Answered]:
    answered = []
    for number in range(load.repeats):
        say("one client", number, load.repeats)
        answered.append(_ask(runtime, next(fresh)))
    return answered


def _again(runtime: Runtime, fresh: Iterator[GenerationRequest], load: AnswerLoad, say: Progress) -> list[float]:
    """Seconds to the first token of a second question about an image."""
    found = []
    for number in range(load.repeats):
        say("the same image again", number, load.repeats)
        (picture,) = next(fresh).images
        _ask(runtime, GenerationRequest.about(picture, load.question, 1))
        found.append(_ask(runtime, GenerationRequest.about(picture, AGAIN, 1)).first)
    return found


def _together(
    runtime: Runtime, fresh: Iterator[GenerationRequest], load: AnswerLoad, clients: int, say: Progress
) -> ClientsFigures:
    """Every client asks its share of the repeats, one after the other, and two questions at least."""
    each = max(2, -(-load.repeats // clients))
    say(f"{clients} clients", 0, each * clients)
    shares = [[next(fresh) for _ in range(each)] for _ in range(clients)]
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(lambda share: [_ask(runtime, ask) for ask in share], share) for share in shares]
        try:
            answered = [one for client in asking for one in client.result()]
        except BaseException:
            runtime.close(drain=False)  # the other clients end with their next question
            raise
    return _figures(clients, answered, time.perf_counter() - start)


def _figures(clients: int, answered: Sequence[_Answered], seconds: float) -> ClientsFigures:
    times = [(one.first, one.total) for one in answered]
    return clients_figures(clients, times, sum(one.tokens for one in answered), seconds)


def clients_figures(clients: int, times: Sequence[tuple[float, float]], tokens: int, seconds: float) -> ClientsFigures:
    """A row.

    Args:
        clients: at once.
        times: of each request, seconds to its first token and to its end.
        tokens: of all answers.
        seconds: from the first question to the last token.
    """
    return ClientsFigures(
        clients=clients,
        requests=len(times),
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        first_token=times_of([first for first, _ in times]),
        answer=times_of([total for _, total in times]),
    )
