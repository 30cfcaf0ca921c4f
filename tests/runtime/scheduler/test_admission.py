"""Admission, case by case; bytes are small numbers here, and the clock is what a test says."""

from __future__ import annotations

from typing import Any

import pytest

from edgeq.errors import InputError
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


def admission(budget: int = 100, **rules: Any) -> Admission:
    """A reserve of 50 and a margin of 20 on the machine, unless told otherwise."""
    return Admission(Rules(**{"budget": budget, "reserve": 50, "margin": 20, **rules}))


def keeps(size: int) -> RequestMemory:
    return RequestMemory(kv=size)


def test_what_fits_starts_in_the_lowest_free_slot() -> None:
    state = admission()
    assert state.submit("a", keeps(30), 0.0) == Admitted("a", 0)
    assert state.submit("b", keeps(30), 0.0) == Admitted("b", 1)
    assert state.finish("a", 1.0) == []
    assert state.submit("c", keeps(30), 1.0) == Admitted("c", 0)
    assert state.active == {"b": 1, "c": 0}
    assert state.reserved_bytes == 60
    assert state.queue_length == 0


def test_of_what_passes_only_the_largest_counts() -> None:
    state = admission(budget=100)
    state.submit("a", RequestMemory(kv=10, features=5, prefill=40, vision=7), 0.0)
    assert state.reserved_bytes == 10 + 5 + 40 + 7
    state.submit("b", RequestMemory(kv=20, features=1, prefill=30, vision=9), 0.0)
    assert state.reserved_bytes == 10 + 5 + 20 + 1 + 40 + 9
    state.finish("a", 1.0)
    assert state.reserved_bytes == 20 + 1 + 30 + 9


def test_what_never_fits_is_refused_with_the_numbers() -> None:
    state = admission(budget=100)
    large = RequestMemory(kv=60, features=1, prefill=20, vision=20)
    assert state.submit("a", large, 0.0) == TooLarge("a", needed=101, budget=100)
    assert state.submit("b", RequestMemory(kv=60, prefill=20, vision=20), 0.0) == Admitted("b", 0), "exactly all of it"
    assert state.submit("a", keeps(101), 0.0) == TooLarge("a", 101, 100), "whoever else runs"


def test_what_does_not_fit_now_waits_and_then_the_line_is_full() -> None:
    state = admission(slots=1, queue=2)
    assert [state.submit(id, keeps(1), 0.0) for id in "abc"] == [Admitted("a", 0), Queued("b", 0), Queued("c", 1)]
    assert isinstance(state.submit("d", keeps(1), 0.0), Busy)
    assert state.queue_length == 2
    assert state.finish("a", 1.0) == [Admitted("b", 0)]
    assert state.submit("d", keeps(1), 1.0) == Queued("d", 1), "whoever was sent away may come back"


def test_no_line_at_all() -> None:
    state = admission(slots=1, queue=0)
    assert state.submit("a", keeps(1), 0.0) == Admitted("a", 0)
    assert isinstance(state.submit("b", keeps(1), 0.0), Busy)
    assert state.finish("a", 1.0) == []
    assert state.submit("b", keeps(1), 1.0) == Admitted("b", 0)


def test_memory_for_two_and_twenty_at_once() -> None:
    """Two run, sixteen wait, two are sent away; whoever was taken in finishes in turn."""
    state = admission(budget=2 * 40 + 10, slots=4, queue=16)
    needs = RequestMemory(kv=40, prefill=10)
    decisions = [state.submit(str(number), needs, 0.0) for number in range(20)]
    assert [type(one).__name__ for one in decisions] == ["Admitted"] * 2 + ["Queued"] * 16 + ["Busy"] * 2
    order = []
    while state.active:
        assert len(state.active) == 2 or not state.queue_length
        first = next(iter(state.active))
        order.append(int(first))
        state.finish(first, float(len(order)))
    assert order == list(range(18))
    assert state.reserved_bytes == 0


def test_when_to_come_back() -> None:
    """Nine waiting and one more, two at once, 3 seconds each: 10 x 3 / 2 = 15 seconds."""
    state = admission(slots=2, queue=9)
    for number, seconds in enumerate((2.0, 4.0)):
        state.submit(f"past-{number}", keeps(1), 0.0)
        state.finish(f"past-{number}", seconds)
    for number in range(11):
        state.submit(str(number), keeps(1), 10.0)
    assert state.submit("more", keeps(1), 10.0) == Busy("more", 15)
    state.cancel("0", 900.0)
    state.submit("again", keeps(1), 900.0)
    assert state.submit("more", keeps(1), 900.0) == Busy("more", 15), "what was cancelled says nothing about durations"


def test_when_to_come_back_is_between_a_second_and_ten_minutes() -> None:
    for seconds, said in ((0.001, 1), (1e6, 600)):
        state = admission(slots=1, queue=0)
        state.submit("a", keeps(1), 0.0)
        state.finish("a", seconds)
        state.submit("b", keeps(1), seconds)
        assert state.submit("c", keeps(1), seconds) == Busy("c", said)


def test_before_anything_ended_ten_seconds_are_guessed() -> None:
    state = admission(slots=4, queue=0)
    for number in range(4):
        state.submit(str(number), keeps(1), 0.0)
    assert state.submit("e", keeps(1), 0.0) == Busy("e", 3), "10 / 4, rounded up"


def test_only_the_last_sixteen_durations_count() -> None:
    state = admission(slots=1, queue=0)
    for number, seconds in enumerate([1000.0] + [2.0] * 16):
        state.submit(str(number), keeps(1), 0.0)
        state.finish(str(number), seconds)
    state.submit("a", keeps(1), 0.0)
    assert state.submit("b", keeps(1), 0.0) == Busy("b", 2)


def test_small_ones_pass_a_large_one_but_not_for_ever() -> None:
    """Somebody small always comes; the large one starts after as many as the rules say."""
    state = admission(budget=100, slots=4, queue=8, overtakes=3)
    state.submit("first", keeps(50), 0.0)
    assert state.submit("large", keeps(90), 0.0) == Queued("large", 0)
    passed = [f"small-{n}" for n in range(20) if isinstance(state.submit(f"small-{n}", keeps(1), 1.0 + n), Admitted)]
    assert passed == ["small-0", "small-1", "small-2"]
    assert state.queue_length == 8
    for id in passed:
        assert state.finish(id, 50.0) == [], "slots are free, and still nobody passes"
    started = state.finish("first", 51.0)
    assert started == [Admitted("large", 0), *(Admitted(f"small-{n}", n - 2) for n in (3, 4, 5))]


def test_strictly_in_turn_where_nobody_may_pass() -> None:
    state = admission(budget=100, overtakes=0)
    state.submit("first", keeps(50), 0.0)
    state.submit("large", keeps(90), 0.0)
    assert state.submit("small", keeps(1), 0.0) == Queued("small", 1)
    assert [one.id for one in state.finish("first", 1.0)] == ["large", "small"]


def test_one_that_is_passed_in_the_middle_of_the_line_counts_too() -> None:
    """`b` is never the head while it is passed."""
    state = admission(budget=100, slots=9, overtakes=2)
    state.submit("first", keeps(60), 0.0)
    assert [state.submit(id, keeps(50), 0.0) for id in "ab"] == [Queued("a", 0), Queued("b", 1)]
    state.submit("one", keeps(5), 0.0)
    state.cancel("a", 0.0)
    state.submit("c", keeps(50), 0.0)
    assert state.submit("two", keeps(5), 0.0) == Admitted("two", 2)
    assert isinstance(state.submit("three", keeps(5), 0.0), Queued), "b was passed twice"


def test_a_full_line_does_not_keep_out_one_that_has_room() -> None:
    state = admission(budget=100, queue=1)
    state.submit("first", keeps(50), 0.0)
    state.submit("large", keeps(90), 0.0)
    assert state.submit("small", keeps(1), 0.0) == Admitted("small", 1)


def test_deadlines_while_running_and_waiting() -> None:
    state = admission(slots=1)
    state.submit("a", keeps(1), 0.0, deadline=5.0)
    state.submit("b", keeps(1), 0.0, deadline=5.0)
    state.submit("c", keeps(1), 0.0, deadline=5.1)
    assert state.expire(4.9) == []
    assert state.expire(5.0) == [Expired("a", 0), Expired("b", None), Admitted("c", 0)]
    assert state.expire(9.0) == [Expired("c", 0)]
    assert state.reserved_bytes == 0


def test_one_that_is_overdue_does_not_start() -> None:
    state = admission(slots=1)
    state.submit("a", keeps(1), 0.0)
    state.submit("b", keeps(1), 0.0, deadline=5.0)
    state.submit("c", keeps(1), 0.0)
    assert state.finish("a", 6.0) == [Admitted("c", 0)]
    assert state.expire(6.0) == [Expired("b", None)]
    assert state.submit("d", keeps(1), 7.0, deadline=7.0) == Queued("d", 0)
    assert state.expire(7.0) == [Expired("d", None)]


def test_cancelling() -> None:
    state = admission(budget=100)
    state.submit("a", keeps(60), 0.0)
    state.submit("b", keeps(60), 0.0)
    state.submit("c", keeps(30), 0.0)
    assert state.cancel("a", 1.0) == [Admitted("b", 0)], "the running one makes room"
    assert state.cancel("a", 2.0) == [], "it has ended already"
    state.submit("d", keeps(90), 2.0)
    assert state.cancel("d", 3.0) == []
    assert state.queue_length == 0
    assert state.active == {"c": 1, "b": 0}


def test_cancelling_the_head_lets_the_line_go_on() -> None:
    state = admission(budget=100, overtakes=0)
    for id, size in (("a", 50), ("b", 90), ("c", 10)):
        state.submit(id, keeps(size), 0.0)
    assert state.cancel("b", 1.0) == [Admitted("c", 1)]


def test_an_id_is_used_once_at_a_time() -> None:
    state = admission(slots=1)
    state.submit("a", keeps(1), 0.0)
    state.submit("b", keeps(1), 0.0)
    for id in "ab":
        with pytest.raises(ValueError, match="already"):
            state.submit(id, keeps(1), 0.0)
    with pytest.raises(ValueError, match="does not run"):
        state.finish("b", 1.0)
    with pytest.raises(ValueError, match="does not run"):
        state.finish("never", 1.0)


def test_caches_have_what_requests_leave() -> None:
    state = admission(budget=100)
    assert state.cache_limit_bytes == 100
    state.submit("a", RequestMemory(kv=30, prefill=20), 0.0)
    assert state.cache_limit_bytes == 50
    state.submit("b", RequestMemory(kv=30, prefill=20), 0.0)
    assert state.cache_limit_bytes == 20, "caches keep nobody waiting"
    state.finish("a", 1.0)
    assert state.cache_limit_bytes == 50


def test_caches_shrink_first_then_work_waits_then_it_goes_on() -> None:
    state = admission(budget=100)
    state.submit("a", keeps(10), 0.0)
    assert state.observe(49, 1.0, cached_bytes=30) == [ShrinkCaches(1)]
    assert not state.held
    assert state.cache_limit_bytes == 29
    assert state.observe(30, 2.0, cached_bytes=15) == [ShrinkCaches(15), HoldNewWork()], "20 are missing, 15 are there"
    assert state.cache_limit_bytes == 0
    assert list(state.active) == ["a"], "what runs goes on"
    assert state.submit("b", keeps(1), 2.0) == Queued("b", 0)
    assert state.observe(69, 3.0) == [], "free again, and not yet enough"
    assert state.finish("a", 3.0) == []
    assert state.observe(70, 4.0) == [ResumeNewWork(), Admitted("b", 0)]
    assert not state.held


def test_while_held_the_line_is_bounded_and_what_never_fits_is_still_refused() -> None:
    state = admission(budget=100, queue=1)
    state.observe(0, 0.0)
    assert state.submit("a", keeps(1), 0.0) == Queued("a", 0)
    assert isinstance(state.submit("b", keeps(1), 0.0), Busy)
    assert state.submit("c", keeps(101), 0.0) == TooLarge("c", 101, 100)
    assert state.cancel("a", 1.0) == []


def test_where_others_took_memory_requests_wait_until_the_machine_has_it() -> None:
    """70 are free, 50 of them are the reserve: there is room for 20 more than the process has taken."""
    state = admission(budget=100)
    assert state.observe(70, 0.0, own_bytes=0) == []
    assert state.limit_bytes == 20
    assert state.submit("a", keeps(30), 0.0) == Queued("a", 0)
    assert state.submit("b", keeps(15), 0.0) == Admitted("b", 0)
    assert state.observe(55, 1.0, own_bytes=15) == [], "it has taken its 15, and nothing else has changed"
    assert state.limit_bytes == 20
    assert state.observe(80, 2.0, own_bytes=15) == [Admitted("a", 1)]
    assert state.observe(1000, 3.0, own_bytes=45) == []
    assert state.limit_bytes == 100, "never more than the budget"


def test_caches_shrink_to_what_the_machine_can_really_give() -> None:
    state = admission(budget=100)
    state.submit("a", keeps(30), 0.0)
    actions = state.observe(60, 1.0, cached_bytes=40, own_bytes=50)
    assert state.limit_bytes == 60
    assert actions == [ShrinkCaches(10)], "30 are reserved, though only 10 of them are taken so far"


def test_what_was_promised_stays_promised_when_the_machine_loses_memory() -> None:
    state = admission(budget=100)
    state.submit("a", keeps(80), 0.0)
    assert state.observe(60, 1.0, own_bytes=20) == []
    assert state.limit_bytes == 30 < state.reserved_bytes == 80
    assert state.cache_limit_bytes == 0
    assert state.submit("b", keeps(1), 1.0) == Queued("b", 0)


@pytest.mark.parametrize(
    "wrong",
    [{"budget": 0}, {"slots": 0}, {"queue": -1}, {"overtakes": -1}, {"reserve": -1}, {"margin": -1}],
)
def test_rules_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        admission(**wrong)
