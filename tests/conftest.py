"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings


def _take_own_cores() -> None:
    """Workers beside each other share the cores out: else each starts threads for all of them, which wait busily."""
    worker, count = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if worker and count and hasattr(os, "sched_setaffinity"):
        cores, place = sorted(os.sched_getaffinity(0)), int(worker.removeprefix("gw"))
        os.sched_setaffinity(0, cores[place :: int(count)] or {cores[place % len(cores)]})


_take_own_cores()  # before anything starts threads: the plugins below import numpy

# An example may take longer than 200 ms on a busy machine. Before any test is imported, which takes it from here.
settings.register_profile("edgeq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgeq")

pytest_plugins = ["bundles", "command", "packed", "ray_cluster"]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real images and trained networks that lie beside the checkout; the test is skipped without them."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here: real CIFAR-10 images and trained ResNets are needed")
    return SHARED


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported stays: looking for garbage in it meanwhile takes a fifth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_unconfigure() -> None:
    """Python ends with looking for garbage in all that was imported."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage() -> None:
    """Set aside what the imports left: each lowering collects garbage, and looks half a second through torch's."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def one_torch_thread() -> None:
    """Torch computes in one thread from here on: networks this small are slower in two."""
    import torch

    torch.set_num_threads(1)
