"""The runtime: admission and decoder on one worker thread, and streams for those who ask from other threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType

from edgeq.bundle.vlm_settings import LANGUAGE, VlmSettings
from edgeq.device import DeviceProfile
from edgeq.errors import EdgeqError, EngineError, InputError, first_line
from edgeq.faults import known_fault
from edgeq.runtime.cuda_graphs import GraphMode
from edgeq.runtime.scheduler.admission import RESERVE_BYTES, SLOTS, Admission, Rules
from edgeq.runtime.scheduler.budget import serving_budget, serving_device
from edgeq.runtime.scheduler.capacity import find_capacity, memory_beside_kv
from edgeq.runtime.scheduler.memory_watch import MemoryWatch, bound_gpu_memory
from edgeq.runtime.scheduler.request import ActiveRequest
from edgeq.runtime.scheduler.request_memory import RequestMemory, read_memory_figures
from edgeq.runtime.scheduler.snapshot import Snapshot
from edgeq.runtime.scheduler.worker import Worker
from edgeq.runtime.vlm.api import GenerationRequest
from edgeq.runtime.vlm.language import release_memory, require_packages
from edgeq.runtime.vlm.model import VisionLanguageModel, open_vlm
from edgeq.runtime.vlm.stream import Stream
from edgeq.runtime.vlm.tokenize import PromptBuilder, TokenizedRequest

__all__ = ["Runtime", "RuntimeOptions", "open_runtime", "start_runtime"]

_LOGGER = logging.getLogger("edgeq.runtime")


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
        cuda_graphs: `auto` captures decode steps on a GPU and goes on without where that fails; `off`; `required`.
        batch_invariant: an answer has the same bits whatever else is in the batch; without it, steps may be quicker.
        fused_prefill_rows: pieces of a prompt of up to so many tokens go through bitsandbytes' fused kernel on a GPU; 0
            leaves it to bitsandbytes.

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
    cuda_graphs: GraphMode = "auto"
    batch_invariant: bool = True
    fused_prefill_rows: int = 0

    def __post_init__(self) -> None:
        """Check every number."""
        least = {"slots": 1, "queue": 0, "context": 1, "budget_bytes": 1, "cache_bytes": 0, "reserve_bytes": 0}
        least |= {"fused_prefill_rows": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise InputError(f"{name} is {value}", expected=f"{bound} or more")


class Runtime:
    """Answers requests from any thread; made by `open_runtime`. A context manager, which drains at its end.

    Args:
        prompt_builder: writes prompts.
        worker: answers them; its thread is begun here.
        needs: bytes of a request beside its KV cache.
        settings: of the bundle's model; `context` is that of a request here.
        clock: the worker's.

    Attributes:
        settings: the same.
    """

    def __init__(
        self,
        prompt_builder: PromptBuilder,
        worker: Worker,
        needs: Callable[[TokenizedRequest], RequestMemory],
        settings: VlmSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._prompt_builder, self._worker, self._needs, self._clock = prompt_builder, worker, needs, clock
        self._numbers = count(1)
        self._thread = threading.Thread(target=self._run, name="edgeq-runtime", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the worker runs and goes on; for a health check."""
        return self._thread.is_alive() and not self._worker.abandoned

    def submit(self, ask: GenerationRequest, deadline_s: float | None = None) -> Stream:
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
        return self._ask(self._prompt_builder.question(ask), came, deadline_s)

    def submit_known(self, ask: GenerationRequest, deadline_s: float | None = None) -> Stream | None:
        """The same for what was asked before, with files that were seen before; None for anything else.

        It takes microseconds, so that an event loop may call it; raises as `submit`.
        """
        came = self._clock()
        question = self._prompt_builder.known_question(ask)
        return None if question is None else self._ask(question, came, deadline_s)

    def _ask(self, question: TokenizedRequest, came: float, deadline_s: float | None) -> Stream:
        name = f"r{next(self._numbers)}"
        stream = Stream(name, self._worker.cancel)
        deadline = None if deadline_s is None else came + deadline_s
        self._worker.submit(ActiveRequest(name, question, stream, came, deadline), self._needs(question))
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
            while self._worker.wait():
                self._worker.step()
        except BaseException as error:  # the accelerator is lost, a bug, or a library that ends its thread
            self._worker.abandon(_stopped(error))  # first of all: nobody is left waiting for ever
            _LOGGER.critical("the runtime has stopped", exc_info=error)


def _stopped(error: BaseException) -> EdgeqError:
    """What those are told who are left when the worker cannot go on."""
    known = known_fault(error)
    if known is not None:
        return known
    if isinstance(error, EdgeqError):
        return error
    cause = f"{type(error).__name__}: {first_line(error) if isinstance(error, Exception) else error}"
    return EngineError("the runtime has stopped", causes=(cause,), next_step="start it again")


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
    device = serving_device(bundle, cuda=_has_cuda(bundle))
    if (bundle / LANGUAGE).is_dir():  # what is no such bundle is told by who opens it
        serving_budget(bundle, device, reserve_bytes=options.reserve_bytes, total_bytes=options.budget_bytes)
    vlm = open_vlm(bundle, threads=options.threads)
    return start_runtime(vlm, bundle, options, device)


def start_runtime(vlm: VisionLanguageModel, bundle: Path, options: RuntimeOptions, device: DeviceProfile) -> Runtime:
    """As `open_runtime`, for halves that are loaded already: with another vision engine, or after their canaries.

    Args:
        vlm: the halves; nobody else may use them from now on.
        bundle: that they were loaded from.
        options: how it is served.
        device: from `edgeq.runtime.scheduler.budget.serving_device`, asked before they were loaded.

    Raises:
        ModelError: the family cannot be served in slots.
        InputError: memory does not suffice for one request.
    """
    from edgeq.runtime.vlm.batch_decoder import BatchDecoder
    from edgeq.runtime.vlm.decode_step import StepOptions
    from edgeq.runtime.vlm.kv_cache import read_kv_shape
    from edgeq.runtime.vlm.linear import fuse_short_pieces
    from edgeq.runtime.vlm.threads import tune_threads

    bundled = vlm.prompter.settings
    context = min(options.context or bundled.context, bundled.context)
    figures = read_memory_figures(bundle, vlm.prompter.config, widens=device.widens_fp16)
    figures = replace(figures, context=context)
    shape = read_kv_shape(vlm.language.model, vlm.language.cross_states)
    budget = serving_budget(bundle, device, reserve_bytes=options.reserve_bytes, total_bytes=options.budget_bytes)
    room = find_capacity(
        figures,
        shape,
        budget.requests,
        slots=options.slots,
        caches=options.cache_bytes,
        captured=shape.device.type == "cuda" and options.cuda_graphs != "off",
        unpacked=budget.unpacked,
    )
    halves = (vlm.prompter, vlm.vision_encoder, vlm.language)
    fuse_short_pieces(options.fused_prefill_rows)
    tunes = options.threads is None and shape.device.type == "cpu"
    steps = StepOptions(batch_invariant=options.batch_invariant, cuda_graphs=options.cuda_graphs, try_shapes=not tunes)
    decoder = BatchDecoder(*halves, slots=room.slots, context=context, cache_bytes=room.caches, options=steps)
    if tunes:
        tune_threads(decoder.rehearse)  # before the worker's thread is begun, which takes it over
        decoder.check_shapes()
    admission = Admission(Rules(room.requests, room.slots, options.queue, reserve=options.reserve_bytes))
    watch = MemoryWatch(cuda=shape.device.type == "cuda")
    if shape.device.type == "cuda":  # keys, values and graphs are there by now
        bound_gpu_memory(budget.working + room.requests)
    worker = Worker(decoder, admission, look=watch.look, give_back=release_memory, clock=time.monotonic)
    settings = bundled.model_copy(update={"context": context})
    return Runtime(PromptBuilder(vlm.prompter, context), worker, partial(memory_beside_kv, figures), settings)


def _has_cuda(bundle: Path) -> bool:
    require_packages(bundle / LANGUAGE)
    import torch

    return torch.cuda.is_available()
