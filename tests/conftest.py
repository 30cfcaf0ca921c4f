"""Fixtures that every test may use."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

pytest_plugins = ["bundles", "command", "packed", "ray_cluster"]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real images and trained networks that lie beside the checkout; the test is skipped without them."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here: real CIFAR-10 images and trained ResNets are needed")
    return SHARED


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
