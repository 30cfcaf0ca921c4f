"""What free memory asks for: a reserve of 100 bytes and a margin of 20."""

from __future__ import annotations

import pytest

from edgeq.runtime.scheduler.memory_pressure import MemoryPressure


def test_nothing_is_asked_for_before_the_first_look() -> None:
    pressure = MemoryPressure(100, 20)
    assert (pressure.held, pressure.cache_cap, pressure.reachable) == (False, None, None)


@pytest.mark.parametrize(
    ("free", "cached", "held", "cap"),
    [
        (150, 40, False, 70),  # 30 beyond the margin are free
        (120, 40, False, 40),
        (119, 40, False, 40),  # within the margin: no growth
        (100, 40, False, 40),
        (99, 40, False, 39),
        (60, 40, False, 0),  # exactly all of them
        (59, 40, True, 0),
        (99, 0, True, 0),
        (0, 0, True, 0),
    ],
)
def test_one_look(free: int, cached: int, held: bool, cap: int) -> None:
    pressure = MemoryPressure(100, 20)
    pressure.observe(free, cached, None)
    assert (pressure.held, pressure.cache_cap) == (held, cap)


def test_held_work_is_let_in_again_only_beyond_the_margin() -> None:
    pressure = MemoryPressure(100, 20)
    held = []
    for free in (99, 100, 119, 99, 119, 120, 119, 100, 99):
        pressure.observe(free, 0, None)
        held.append(pressure.held)
    assert held == [True, True, True, True, True, False, False, False, True]


def test_while_work_waits_the_caches_stay_empty() -> None:
    """Caches that filled again, or never obeyed, must not keep work out."""
    pressure = MemoryPressure(100, 20)
    pressure.observe(10, 30, None)
    assert pressure.held
    pressure.observe(110, 30, None)
    assert (pressure.held, pressure.cache_cap) == (True, 0)
    pressure.observe(140, 0, None)
    assert (pressure.held, pressure.cache_cap) == (False, 20)


def test_without_a_margin_work_is_let_in_at_the_reserve() -> None:
    pressure = MemoryPressure(100, 0)
    for free, held in ((99, True), (100, False)):
        pressure.observe(free, 0, None)
        assert pressure.held == held


def test_caches_that_give_what_is_asked_bring_the_reserve_back() -> None:
    """One look after another on a machine where another process takes 7 bytes each time."""
    pressure, free, cached = MemoryPressure(100, 20), 150, 60
    while not pressure.held:
        free -= 7
        pressure.observe(free, cached, None)
        assert pressure.cache_cap is not None
        given = max(cached - pressure.cache_cap, 0)
        free, cached = free + given, cached - given
        assert free >= 100 or pressure.held
    assert cached == 0, "work was held only when the caches had nothing left"


@pytest.mark.parametrize(("free", "own", "reachable"), [(150, 0, 50), (150, 30, 80), (90, 30, 20), (50, 30, 0)])
def test_what_the_machine_can_give_this_process(free: int, own: int, reachable: int) -> None:
    pressure = MemoryPressure(100, 20)
    pressure.observe(free, 0, own)
    assert pressure.reachable == reachable
