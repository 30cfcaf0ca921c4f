"""A real Ray cluster of two nodes on this machine, started once for a file of tests: an idle one costs time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]
STORE = 80_000_000


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    """Two nodes, with one and two CPUs; a test that loses the second adds another."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'edgeq[cluster]'")
    with started() as made:
        yield made


@contextmanager
def started() -> Iterator[Any]:
    """A cluster of two nodes, with one and two CPUs, whose raylets are children of this process."""
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster()
    try:
        add_node(made, 1, include_dashboard=False)
        add_node(made, 2)
        yield made
    finally:
        if ray.is_initialized():
            ray.shutdown()
        made.shutdown()


def environment() -> dict[str, str]:
    """Of processes that find the tests' modules and start or join the cluster."""
    places = (TESTS / "catalog", TESTS / "helpers", TESTS.parent)
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    paths = os.pathsep.join([*map(str, places), *given])
    return {"PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def add_node(cluster: Any, cpus: int, **options: Any) -> None:
    """Start a node, whose processes find the tests' modules."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        cluster.add_node(num_cpus=cpus, object_store_memory=STORE, **options)


@pytest.fixture
def address(ray_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """HOST:PORT of the cluster's head."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    return str(ray_cluster.address)


def actors() -> list[int]:
    """Process numbers of the actors of this process's own cluster: children of its raylets."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
    return sorted(
        pid for pid, parent in parents.items() if parents.get(parent) == os.getpid() and _name(pid).startswith("ray::T")
    )


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def wait_for(done: Callable[[], object]) -> None:
    """Until it is true, half a minute at most."""
    until = time.monotonic() + 30
    while not done():
        assert time.monotonic() < until
        time.sleep(0.02)
