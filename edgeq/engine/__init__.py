"""Run a vision graph: one protocol, and the backends behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Engine"]


class Engine(Protocol):
    """A graph that is ready to run.

    Attributes:
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(
        self, feeds: Mapping[str, NDArray[np.float32]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Compute `outputs` (all of them when None) for one batch; the first axis is the batch."""
        ...
