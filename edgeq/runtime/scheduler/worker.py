"""What happens between two decode steps: who leaves, who joins, what gives way. One thread turns it, any may submit.

Each request ends in exactly one way, and its slot, its reservation and its stream end together: also when the vision
graph or the model fails on it, or memory runs out on it, which the others do not notice. Those who wait are told first,
and then the slot is let go, which can fail on an accelerator. Where that is lost, all are told, and nothing calls it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from edgeq.errors import DeviceLostError, EdgeqError, EngineError, OutOfMemoryError, first_line
from edgeq.faults import known_fault
from edgeq.runtime.scheduler.admission import Admission
from edgeq.runtime.scheduler.decisions import Admitted, Busy, Expired, ShrinkCaches, TooLarge
from edgeq.runtime.scheduler.errors import BusyError, ClosedError, DeadlineError, TooLargeError
from edgeq.runtime.scheduler.memory_watch import MemorySeen
from edgeq.runtime.scheduler.request import ActiveRequest, Counts
from edgeq.runtime.scheduler.request_memory import RequestMemory
from edgeq.runtime.scheduler.snapshot import Snapshot
from edgeq.runtime.vlm.stream import Done, Event, Failed

if TYPE_CHECKING:
    from edgeq.runtime.vlm.batch_decoder import BatchDecoder, TokenEvent

__all__ = ["Worker"]

_LOGGER: Final = logging.getLogger("edgeq.runtime")
_LOOK_EVERY_S: Final = 1.0
_HANDED_OVER_S: Final = 0.0005
"""So long a first token is waited for to be taken; a step of the smallest model takes more."""


class Worker:
    """Admission and decoder joined.

    Args:
        decoder: used in the thread that calls `step`, and in no other.
        admission: of as many slots as the decoder has; its budget is what is left beside the decoder's KV cache.
        look: at the machine's memory; None where nothing is known.
        give_back: what was freed, to the system.
        clock: seconds, never back.

    Attributes:
        abandoned: it has given up; nothing is answered any more.
    """

    def __init__(
        self,
        decoder: BatchDecoder,
        admission: Admission,
        *,
        look: Callable[[], MemorySeen | None],
        give_back: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._decoder, self._admission = decoder, admission
        self._look, self._give_back, self._clock = look, give_back, clock
        self._requests: dict[str, ActiveRequest] = {}
        self._starting: deque[Admitted] = deque()
        self._unwanted: set[str] = set()
        self._counts = Counts()
        self._next_look, self._free = clock(), 0
        self._closing = self.abandoned = False
        self._changed = threading.Condition()

    def submit(self, request: ActiveRequest, needs: RequestMemory) -> None:
        """A request comes; `needs` without its KV cache, which is there already.

        Raises:
            TooLargeError: it never fits.
            BusyError: as many wait as may.
            ClosedError: no more are taken.
        """
        with self._changed:
            if self._closing:
                raise ClosedError
            self._counts.submitted += 1
            now = self._clock()
            if request.deadline is not None and now >= request.deadline:
                self._counts.ended["deadline"] += 1
                request.stream.put(Failed(DeadlineError(0)))
                return
            decision = self._admission.submit(request.id, needs, now, request.deadline)
            if isinstance(decision, TooLarge):
                self._counts.ended["too_large"] += 1
                raise TooLargeError(decision.needed, decision.budget)
            if isinstance(decision, Busy):
                self._counts.ended["busy"] += 1
                raise BusyError(decision.retry_after_s)
            self._requests[request.id] = request
            if isinstance(decision, Admitted):
                self._starting.append(decision)
            self._changed.notify_all()

    def cancel(self, id: str) -> None:
        """A request is not wanted any more; it ends at the next turn. One that has ended is left alone."""
        with self._changed:
            if id in self._requests:
                self._unwanted.add(id)
                self._changed.notify_all()

    def close(self, *, drain: bool) -> None:
        """Take no more; without `drain`, end what runs and waits at the next turn."""
        with self._changed:
            self._closing = True
            if not drain:
                self._unwanted.update(self._requests)
            self._changed.notify_all()

    def wait(self) -> bool:
        """Wait until there may be something to do; False when it is closed and nothing is left."""
        with self._changed:
            if self._closing and not self._requests:
                return False
            if not (self._decoder.busy or self._starting or self._unwanted):
                self._changed.wait(self._patience())
            return True

    def step(self) -> None:
        """Let go, let in, read one prompt at most, and do one step.

        Raises:
            DeviceLostError: the accelerator is lost; `abandon` is what is left to be done.
            Exception: a slot could not be let go; as before.
        """
        with self._changed:
            self._drop_unwanted()
            self._let_in(self._admission.expire(self._clock()))
            self._watch_memory()
            admitted = self._starting.popleft() if self._starting else None
        if admitted is not None:
            self._begin(admitted)
        if self._decoder.busy:
            self._advance()

    def abandon(self, error: EdgeqError) -> None:
        """Take no more, and tell all that run and wait: the worker's thread cannot go on.

        Slots are let go last, as far as that can be done; not where the accelerator is lost, which is called no more.
        """
        with self._changed:
            self._closing = self.abandoned = True
            for request in self._requests.values():
                request.stream.put(Failed(error))
            slots = [self._leave(request, Failed(error)) for request in list(self._requests.values())]
            self._starting.clear()
            self._unwanted.clear()
            self._changed.notify_all()
            if isinstance(error, DeviceLostError):
                return
            for slot in slots:
                with suppress(Exception):
                    if slot is not None:
                        self._decoder.release(slot)

    def snapshot(self) -> Snapshot:
        """All figures now; from any thread."""
        with self._changed:
            counts, admission, decoder = self._counts, self._admission, self._decoder
            running = [self._requests[id] for id in admission.active]
            return Snapshot(
                slots=admission.rules.slots,
                active=len(running),
                queued=admission.queue_length,
                held=admission.held,
                submitted=counts.submitted,
                ended=dict(counts.ended),
                prompt_tokens=counts.prompt_tokens,
                cached_tokens=counts.cached_tokens,
                answer_tokens=counts.answer_tokens,
                steps=decoder.steps,
                first_tokens=counts.first_tokens,
                first_token_seconds=counts.first_token_seconds,
                decode_tokens=counts.decode_tokens,
                decode_seconds=counts.decode_seconds,
                kv_bytes=decoder.kv_bytes,
                kv_used_bytes=decoder.token_bytes * sum(request.length for request in running),
                kv_reserved_bytes=decoder.token_bytes * sum(request.reach for request in running),
                context=decoder.context,
                longest=max((request.length for request in running), default=0),
                reserved_bytes=admission.reserved_bytes,
                limit_bytes=admission.limit_bytes,
                features=decoder.kept.figures("features"),
                prefixes=decoder.kept.figures("prefixes"),
                memory_free_bytes=self._free,
                cuda_graphs=decoder.graphs.state,
            )

    def _drop_unwanted(self) -> None:
        for id in self._unwanted & self._requests.keys():
            request = self._requests[id]
            self._end(request, request.done("cancelled", self._clock()))
        self._unwanted.clear()

    def _let_in(self, decisions: list[Expired | Admitted]) -> None:
        """First those whose time is over leave, then those who may start are noted."""
        for decision in decisions:
            if isinstance(decision, Admitted):
                self._starting.append(decision)
            else:
                request = self._requests[decision.id]
                self._end(request, Failed(DeadlineError(len(request.token_ids))))
                if decision.slot is not None:
                    self._decoder.release(decision.slot)

    def _watch_memory(self) -> None:
        """Once a second, let the caches and the budget follow the machine."""
        now, kept = self._clock(), self._decoder.kept
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_EVERY_S
        seen = self._look()
        if seen is None:  # what was decided at the last look stays so
            return
        self._free = seen.free
        actions = self._admission.observe(seen.free, now, cached_bytes=kept.bytes, own_bytes=seen.own)
        kept.bound(self._admission.cache_limit_bytes)
        if any(isinstance(action, ShrinkCaches) for action in actions):
            self._give_back()
        self._starting.extend(action for action in actions if isinstance(action, Admitted))

    def _begin(self, admitted: Admitted) -> None:
        """Read a request's prompt, once the caches have made room for it."""
        request = self._requests[admitted.id]
        with self._changed:
            room = self._admission.cache_limit_bytes
        self._decoder.kept.bound(room)
        request.started = self._clock()
        failed = None
        try:
            begun = self._decoder.begin(admitted.slot, request.question)
        except Exception as error:  # whatever it is, it is this request's alone, where the accelerator goes on
            failed = _judged(error)
        if failed is not None:  # outside of the handler, which holds what was being computed
            self._fail([request], failed)
            return
        with self._changed:
            request.begin(begun, self._clock(), self._counts)
            self._end_if_over(request, begun.said)
        request.stream.wait_taken(_HANDED_OVER_S)

    def _advance(self) -> None:
        """One step; if it fails as a whole, nobody in it can go on."""
        slots = {slot: id for id, slot in self._admission.active.items()}
        failed = None
        try:
            all_said = self._decoder.step()
        except Exception as error:
            failed = _judged(error)
        if failed is not None:
            self._fail([self._requests[id] for id in slots.values()], failed)
            return
        now = self._clock()
        with self._changed:
            for said in all_said:
                request = self._requests[slots[said.slot]]
                request.go_on(said, now, self._counts)
                self._end_if_over(request, said)

    def _end_if_over(self, request: ActiveRequest, said: TokenEvent) -> None:
        if said.error is not None:
            self._end(request, Failed(said.error))
        elif said.ended is not None:
            self._end(request, request.done(said.ended, self._clock()))

    def _fail(self, requests: list[ActiveRequest], error: EdgeqError) -> None:
        """End requests that cannot be answered; where memory ran out, the caches give up what they hold."""
        with self._changed:
            self._end_all([(request, Failed(error)) for request in requests])
            if isinstance(error, OutOfMemoryError):
                _LOGGER.warning("memory ran out; requests that failed of it: %d; %s", len(requests), error.causes[:1])
                self._decoder.kept.bound(0)
                self._give_back()

    def _end(self, request: ActiveRequest, event: Event) -> None:
        self._end_all([(request, event)])

    def _end_all(self, ends: list[tuple[ActiveRequest, Event]]) -> None:
        """The one way out: streams, reservations and counts, and last the slots, which may fail."""
        for request, event in ends:
            request.stream.put(event)
        slots = [self._leave(request, event) for request, event in ends]
        for slot in slots:
            if slot is not None:
                self._decoder.release(slot)

    def _leave(self, request: ActiveRequest, event: Event) -> int | None:
        """A request that was told its end is no more; returns the slot that it had."""
        slot = self._admission.active.get(request.id)
        del self._requests[request.id]
        self._starting = deque(one for one in self._starting if one.id != request.id)
        now = self._clock()
        regular = isinstance(event, Done) and event.reason != "cancelled" and slot is not None
        admitted = (self._admission.finish if regular else self._admission.cancel)(request.id, now)
        self._starting.extend(admitted)
        self._counts.ended[_outcome(event)] += 1
        return slot

    def _patience(self) -> float:
        """Seconds until memory is to be looked at, or a deadline comes."""
        now = self._clock()
        moments = [request.deadline for request in self._requests.values() if request.deadline is not None]
        return max(min([self._next_look, *moments]) - now, 0.0)


def _outcome(event: Event) -> str:
    if isinstance(event, Done):
        return event.reason
    assert isinstance(event, Failed)
    if isinstance(event.error, OutOfMemoryError):
        return "out_of_memory"
    return "deadline" if isinstance(event.error, DeadlineError) else "failed"


def _judged(error: Exception) -> EdgeqError:
    """What the requests in it are told; raises DeviceLostError where nobody can be answered any more."""
    known = known_fault(error)
    if isinstance(known, DeviceLostError):
        raise known from error
    if known is not None:
        return known
    if isinstance(error, EdgeqError):
        return error
    cause = f"{type(error).__name__}: {first_line(error)}"
    return EngineError("this request could not be answered", causes=(cause,))
