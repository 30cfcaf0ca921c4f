"""One simulated runtime and one service over it for each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from running import Running, SimulatedRuntime, running, talking


@pytest.fixture(scope="module")
def runtime() -> SimulatedRuntime:
    return SimulatedRuntime()


@pytest.fixture(scope="module")
def service(runtime: SimulatedRuntime) -> Iterator[Running]:
    with running(talking(runtime)) as service:
        yield service
