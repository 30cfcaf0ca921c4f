"""Thousands of random sequences of events; after each event, everything that must always hold is looked at.

The watcher keeps its own books from what admission says, and reckons by the rules, not by admission's code.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from edgeq.runtime.scheduler.admission import Admission, Rules
from edgeq.runtime.scheduler.decisions import (
    Admitted,
    Busy,
    Expired,
    HoldNewWork,
    Queued,
    ResumeNewWork,
    ShrinkCaches,
    TooLarge,
)
from edgeq.runtime.scheduler.request_memory import RequestMemory

SEQUENCES = 400
EVENTS = 40
PLENTY = 10**9

KINDS = (
    RequestMemory(kv=10, features=2, prefill=5, vision=3),
    RequestMemory(kv=25, features=2, prefill=20, vision=3),
    RequestMemory(kv=60, features=4, prefill=30, vision=6),
    RequestMemory(kv=1),
    RequestMemory(kv=99, prefill=1),
    RequestMemory(kv=90, prefill=20),
)
"""For budgets of 60 to 200: small ones, large ones, and some that never fit."""


def together(requests: Sequence[RequestMemory]) -> int:
    kept = sum(one.kv + one.features for one in requests)
    return kept + max((one.prefill for one in requests), default=0) + max((one.vision for one in requests), default=0)


@dataclass
class Seen:
    """One that waits, as the watcher knows it."""

    needs: RequestMemory
    deadline: float | None
    passed: int = 0


@dataclass
class Watcher:
    """Passes events on, and checks."""

    state: Admission
    waiting: dict[str, Seen] = field(default_factory=dict)
    running: dict[str, tuple[RequestMemory, int, float | None]] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    said: list[object] = field(default_factory=list)
    held: bool = False
    reachable: int = PLENTY

    def submit(self, id: str, needs: RequestMemory, now: float, deadline: float | None) -> None:
        waited = len(self.waiting)
        self.waiting[id] = Seen(needs, deadline)
        decision = self.state.submit(id, needs, now, deadline)
        self.said.append(decision)
        assert isinstance(decision, TooLarge) == (together([needs]) > self.state.rules.budget)
        if isinstance(decision, Admitted):
            self.start(decision, now)
        elif isinstance(decision, Queued):
            assert decision.ahead == waited < self.state.rules.queue
        else:
            del self.waiting[id]
            self.ends[id] += 1
            assert isinstance(decision, TooLarge) or waited >= self.state.rules.queue
            assert not isinstance(decision, Busy) or 1 <= decision.retry_after_s <= 600
        self.check(now)

    def finish(self, id: str, now: float) -> None:
        del self.running[id]
        self.ends[id] += 1
        self.starts(self.state.finish(id, now), now)

    def cancel(self, id: str, now: float) -> None:
        if self.waiting.pop(id, None) or self.running.pop(id, None):
            self.ends[id] += 1
        self.starts(self.state.cancel(id, now), now)

    def expire(self, now: float) -> None:
        events = self.state.expire(now)
        over = {id for id, one in self.waiting.items() if one.deadline is not None and one.deadline <= now}
        late = {id for id, (_, _, deadline) in self.running.items() if deadline is not None and deadline <= now}
        expired = [one for one in events if isinstance(one, Expired)]
        assert events[: len(expired)] == expired, "who ends comes before who starts"
        assert {one.id for one in expired} == over | late
        for one in expired:
            slot = self.running.pop(one.id)[1] if one.id in late else self.waiting.pop(one.id) and None
            assert one.slot == slot
            self.ends[one.id] += 1
        self.starts(events[len(expired) :], now)

    def observe(self, free: int, now: float, cached: int, own: int | None) -> None:
        rules, before = self.state.rules, self.held
        actions = self.state.observe(free, now, cached_bytes=cached, own_bytes=own)
        short = free - rules.reserve
        self.held = cached + short < 0 or (before and short < rules.margin)
        self.reachable = PLENTY if own is None else max(own + short, 0)
        assert (HoldNewWork() in actions) == (self.held and not before)
        assert (ResumeNewWork() in actions) == (before and not self.held)
        told = [one for one in actions if not isinstance(one, Admitted)]
        assert actions[: len(told)] == told, "memory comes before who starts"
        if cached > 0 > short:
            assert isinstance(told[0], ShrinkCaches)
            assert 0 < told[0].bytes <= cached
        assert self.state.cache_limit_bytes <= max(cached + short, 0)
        self.starts(actions[len(told) :], now)

    def starts(self, events: Sequence[object], now: float) -> None:
        for event in events:
            assert isinstance(event, Admitted)
            self.said.append(event)
            self.start(event, now)
        self.check(now)

    def start(self, admitted: Admitted, now: float) -> None:
        """One starts: may it, and whom does it pass?"""
        assert not self.held
        one = self.waiting[admitted.id]
        assert one.deadline is None or now < one.deadline
        for id, elder in self.waiting.items():
            if id == admitted.id:
                break
            overdue = elder.deadline is not None and elder.deadline <= now
            assert elder.needs != one.needs or overdue, "first come, first served among equals"
            elder.passed += 1
            assert elder.passed <= self.state.rules.overtakes
        del self.waiting[admitted.id]
        assert admitted.slot not in {slot for _, slot, _ in self.running.values()}
        assert 0 <= admitted.slot < self.state.rules.slots
        self.running[admitted.id] = (one.needs, admitted.slot, one.deadline)
        assert self.reserved() <= min(self.state.rules.budget, self.reachable)

    def reserved(self) -> int:
        return together([needs for needs, _, _ in self.running.values()])

    def check(self, now: float) -> None:
        """What holds between any two events."""
        state, rules = self.state, self.state.rules
        assert state.reserved_bytes == self.reserved() <= rules.budget
        assert state.reserved_bytes + state.cache_limit_bytes <= max(state.limit_bytes, state.reserved_bytes)
        assert state.active == {id: slot for id, (_, slot, _) in self.running.items()}
        assert len(state.active) <= rules.slots
        assert state.queue_length == len(self.waiting) <= rules.queue
        assert state.held == self.held
        if self.waiting and not self.held and len(self.running) < rules.slots:
            head = next(iter(self.waiting.values()))
            room = together([*(needs for needs, _, _ in self.running.values()), head.needs])
            overdue = head.deadline is not None and head.deadline <= now
            assert overdue or room > min(rules.budget, self.reachable), "nobody waits who could start"


def some_rules(draw: random.Random) -> Rules:
    return Rules(
        budget=draw.choice((60, 100, 200)),
        slots=draw.choice((1, 2, 4)),
        queue=draw.choice((0, 1, 3, 8)),
        overtakes=draw.choice((0, 1, 4)),
        reserve=50,
        margin=draw.choice((0, 20)),
    )


def one_event(watcher: Watcher, draw: random.Random, number: int, now: float) -> None:
    kind = draw.choices(("submit", "finish", "cancel", "expire", "observe"), (9, 6, 2, 2, 2))[0]
    if kind == "finish" and watcher.running:
        watcher.finish(draw.choice(list(watcher.running)), now)
    elif kind == "cancel":
        watcher.cancel(draw.choice([*watcher.waiting, *watcher.running, "nobody"]), now)
    elif kind == "expire":
        watcher.expire(now)
    elif kind == "observe":
        own = draw.choice((None, 0, 30, 150))
        watcher.observe(draw.randrange(150), now, draw.choice((0, 10, 40)), own)
    else:
        deadline = draw.choice((None, now + draw.randrange(1, 40)))
        watcher.submit(str(number), draw.choice(KINDS), now, deadline)


def run_out(watcher: Watcher, now: float) -> None:
    """The machine has plenty again, and all that run finish."""
    watcher.observe(PLENTY, now, 0, None)
    for _ in range(EVENTS):
        watcher.expire(now)
        if not watcher.running:
            return
        watcher.finish(next(iter(watcher.running)), now)


def sequence(seed: int, start: float = 0.0) -> Watcher:
    draw = random.Random(seed)
    watcher, now = Watcher(Admission(some_rules(draw))), start
    for number in range(EVENTS):
        now += draw.choice((0, 1, 7))
        one_event(watcher, draw, number, now)
    run_out(watcher, now)
    return watcher


@pytest.mark.parametrize("part", range(5))
def test_whatever_happens(part: int) -> None:
    """At the end, every id has ended exactly once, nothing is reserved, and the caches may have all of it."""
    for seed in range(part * SEQUENCES, (part + 1) * SEQUENCES):
        watcher = sequence(seed)
        assert not watcher.waiting, f"seed {seed}"
        assert not watcher.running, f"seed {seed}"
        assert set(watcher.ends.values()) <= {1}, f"seed {seed}"
        assert watcher.state.reserved_bytes == watcher.state.queue_length == 0
        assert watcher.state.cache_limit_bytes == watcher.state.rules.budget


def test_the_sequences_go_everywhere() -> None:
    """Else the other test proves little: each decision comes up often, and so does passing a waiting one."""
    said = [one for seed in range(200) for one in sequence(seed).said]
    counted = Counter(type(one) for one in said)
    assert set(counted) == {Admitted, Queued, TooLarge, Busy}
    assert min(counted.values()) > 50


def test_only_differences_of_times_count() -> None:
    for seed in range(100):
        assert sequence(seed).said == sequence(seed, start=1_000_000.0).said
