"""What an actor gives back, and what is its own death: without a cluster."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from cuda_errors import LOST, NO_MEMORY

from edgeq.cluster.job import TaskActor
from edgeq.errors import EdgeqError, EngineError


def at_work(error: EdgeqError, cause: Exception | None) -> TaskActor[int]:
    """An actor whose every task fails."""

    def do(_task: int, _hear: Callable[[], None]) -> int:
        raise error from cause

    actor: TaskActor[int] = TaskActor(SimpleNamespace(versions={}))
    actor._worker = SimpleNamespace(do=do)
    return actor


@pytest.mark.parametrize("cause", [None, NO_MEMORY[0]])
def test_an_error_is_given_back(cause: Exception | None) -> None:
    error = EngineError("it failed")
    assert at_work(error, cause).do(0) == (None, error)


def test_a_lost_accelerator_is_the_actors_death() -> None:
    with pytest.raises(EngineError, match="it failed"):
        at_work(EngineError("it failed"), LOST[0]).do(0)
