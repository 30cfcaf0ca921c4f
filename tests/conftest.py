"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["bundles", "command"]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real images and trained networks that lie beside the checkout; the test is skipped without them."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here: real CIFAR-10 images and trained ResNets are needed")
    return SHARED
