"""The runtime: admission and talker on one worker thread, and streams for those who ask from other threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType

from edgeq.device import DeviceProfile
from edgeq.errors import EdgeqError, EngineError, InputError, first_line
from edgeq.runtime.admission import RESERVE_BYTES, SLOTS, Admission, Rules
from edgeq.runtime.asks import Ask
from edgeq.runtime.budget import serving_budget, serving_device
from edgeq.runtime.language import give_back, require_packages
from edgeq.runtime.memory_watch import MemoryWatch
from edgeq.runtime.needs import Needs, read_figures
from edgeq.runtime.pair import Pair, open_pair
from edgeq.runtime.questions import Asker, Question
from edgeq.runtime.request import Request
from edgeq.runtime.room import find_room, needs_beside_kv
from edgeq.runtime.settings import PairSettings
from edgeq.runtime.snapshot import Snapshot
from edgeq.runtime.stream import Stream
from edgeq.runtime.worker import Worker

__all__ = ["Runtime", "RuntimeOptions", "open_runtime", "start_runtime"]


@dataclass(frozen=True)
class RuntimeOptions:
    """How a bundle is served.

    Attributes:
        slots: requests at once, at most; fewer where memory does not allow so many.
        queue: requests that may wait.
        context: tokens of a request, at most; None takes the bundle's, which is the most.
        budget_bytes: what the process may take in all; None takes what the device leaves for it.
        cache_bytes: what the caches may hold at most; None is room for 16 pictures.
        reserve_bytes: of the machine's memory that stay free.
        threads: of one operator; None lets the vision graph take every processor there is, and the language model as
            many of them as it is quickest with.

    Raises:
        InputError: a number is out of range.
    """

    slots: int = SLOTS
    queue: int = 16
    context: int | None = None
    budget_bytes: int | None = None
    cache_bytes: int | None = None
    reserve_bytes: int = RESERVE_BYTES
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check every number."""
        least = {"slots": 1, "queue": 0, "context": 1, "budget_bytes": 1, "cache_bytes": 0, "reserve_bytes": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise InputError(f"{name} is {value}", expected=f"{bound} or more")


class Runtime:
    """Answers requests from any thread; made by `open_runtime`. A context manager, which drains at its end.

    Args:
        asker: writes prompts.
        worker: answers them; its thread is begun here.
        needs: bytes of a request beside its KV cache.
        settings: of the bundle's model; `context` is that of a request here.
        clock: the worker's.

    Attributes:
        settings: the same.
    """

    def __init__(
        self,
        asker: Asker,
        worker: Worker,
        needs: Callable[[Question], Needs],
        settings: PairSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._asker, self._worker, self._needs, self._clock = asker, worker, needs, clock
        self._numbers = count(1)
        self._thread = threading.Thread(target=self._run, name="edgeq-runtime", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the worker runs; for a health check."""
        return self._thread.is_alive()

    def submit(self, ask: Ask, deadline_s: float | None = None) -> Stream:
        """Ask; returns once the image is prepared and the prompt written (some milliseconds; thread-safe).

        Args:
            ask: image and conversation.
            deadline_s: seconds from now after which the request ends with `Failed(DeadlineError)`; None for never.

        Raises:
            InputError: the question cannot be asked, or is too long for the context.
            TooLargeError: it never fits into memory (413).
            BusyError: as many wait as may (429).
            ClosedError: the runtime is being closed (503).
        """
        came = self._clock()
        question = self._asker.question(ask)
        name = f"r{next(self._numbers)}"
        stream = Stream(name, self._worker.cancel)
        deadline = None if deadline_s is None else came + deadline_s
        self._worker.submit(Request(name, question, stream, came, deadline), self._needs(question))
        return stream

    def snapshot(self) -> Snapshot:
        """All figures now (thread-safe)."""
        return self._worker.snapshot()

    def close(self, drain: bool = True) -> None:
        """Take no more requests; answer those that run and wait (or cancel them), and end the worker.

        Args:
            drain: let them end; False cancels them within one step.
        """
        self._worker.close(drain=drain)
        self._thread.join()

    def __enter__(self) -> Runtime:
        """The runtime itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close it; after an error without waiting for answers."""
        self.close(drain=kind is None)

    def _run(self) -> None:
        try:
            while self._worker.rest():
                self._worker.turn()
        except Exception as error:  # a bug: nobody is left waiting for ever
            cause = f"{type(error).__name__}: {first_line(error)}"
            failed = EngineError("the runtime has stopped", causes=(cause,), next_step="start it again")
            self._worker.abandon(error if isinstance(error, EdgeqError) else failed)


def open_runtime(bundle: Path, options: RuntimeOptions | None = None) -> Runtime:
    """Check a bundle byte for byte, load it, and start the worker.

    Args:
        bundle: a vision-language bundle of `edgeq prepare`.
        options: how it is served.

    Raises:
        ArtifactError: it is no bundle, is damaged, or is a classifier's.
        ModelError: a half cannot be loaded, or the family cannot be served in slots.
        InputError: memory does not suffice for one request.
        EngineError: the engine refuses the vision graph, or a package is missing.
    """
    options = options or RuntimeOptions()
    device = serving_device(bundle, cuda=_has_cuda())
    pair = open_pair(bundle, threads=options.threads)
    return start_runtime(pair, bundle, options, device)


def start_runtime(pair: Pair, bundle: Path, options: RuntimeOptions, device: DeviceProfile) -> Runtime:
    """As `open_runtime`, for halves that are loaded already: with another vision engine, or after their canaries.

    Args:
        pair: the halves; nobody else may use them from now on.
        bundle: that they were loaded from.
        options: how it is served.
        device: from `edgeq.runtime.budget.serving_device`, asked before they were loaded.

    Raises:
        ModelError: the family cannot be served in slots.
        InputError: memory does not suffice for one request.
    """
    from edgeq.runtime.decode import Talker
    from edgeq.runtime.processors import settle_threads
    from edgeq.runtime.slots import read_kv_shape

    bundled = pair.prompter.settings
    context = min(options.context or bundled.context, bundled.context)
    figures = replace(read_figures(bundle), context=context)
    shape = read_kv_shape(pair.language.model)
    budget = serving_budget(bundle, device, reserve_bytes=options.reserve_bytes, total_bytes=options.budget_bytes)
    room = find_room(figures, shape, budget.requests, slots=options.slots, caches=options.cache_bytes)
    halves = (pair.prompter, pair.eyes, pair.language)
    talker = Talker(*halves, slots=room.slots, context=context, cache_bytes=room.caches)
    if options.threads is None and shape.device.type == "cpu":
        settle_threads(talker.rehearse)  # before the worker's thread is begun, which takes it over
    admission = Admission(Rules(room.requests, room.slots, options.queue, reserve=options.reserve_bytes))
    watch = MemoryWatch(cuda=shape.device.type == "cuda")
    worker = Worker(talker, admission, look=watch.look, give_back=give_back, clock=time.monotonic)
    settings = bundled.model_copy(update={"context": context})
    return Runtime(Asker(pair.prompter, context), worker, partial(needs_beside_kv, figures), settings)


def _has_cuda() -> bool:
    require_packages()
    import torch

    return torch.cuda.is_available()
