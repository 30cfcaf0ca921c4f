"""The number of threads that is settled on, by a simulated clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch

from edgeq.runtime.vlm.threads import tune_threads


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("milliseconds", "chosen"),
    [
        ({4: 10, 2: 19, 1: 36}, 4),
        ({4: 10, 2: 10.5, 1: 20}, 2),
        ({4: 12, 2: 11, 1: 10}, 1),
        ({4: 12, 2: 10, 1: 10.9}, 1),
        ({4: 3000, 2: 5000, 1: 9000}, 4),
    ],
    ids=["more are quicker", "two are nearly as quick", "more are slower", "one is nearly as quick", "long runs"],
)
def test_the_fewest_that_are_nearly_as_quick(milliseconds: Mapping[int, float], chosen: int) -> None:
    now, runs = 0.0, 0

    def run() -> None:
        nonlocal now, runs
        runs += 1
        slowed = 3 if runs % 2 else 1  # another process has the processor every second time
        now += slowed * milliseconds[torch.get_num_threads()] / 1e3

    assert tune_threads(run, clock=lambda: now) == chosen
    assert torch.get_num_threads() == chosen


def test_a_busy_moment_is_nobodys_alone() -> None:
    """One thread is as quick as two; another process slows it down all through its first turn."""
    torch.set_num_threads(2)
    now, alone = 0.0, 0

    def run() -> None:
        nonlocal now, alone
        alone += torch.get_num_threads() == 1
        now += 0.03 if torch.get_num_threads() == 1 and alone < 7 else 0.01

    assert tune_threads(run, clock=lambda: now) == 1
