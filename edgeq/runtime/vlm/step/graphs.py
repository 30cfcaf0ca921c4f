"""A decode step as a CUDA graph: launching its kernels one by one takes longer than running them.

A graph reads and writes the same addresses each time, so that all that a step takes are buffers and views of them
(docs.pytorch.org, "CUDA Graphs"). All graphs share one memory pool: one step is over before the next begins, and what
it leaves lies outside the pool. Not yet run on a GPU. Needs torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import torch

__all__ = ["Capture", "GraphRecorder", "device_capture"]

_FIRST_WARM_UPS: Final = 3
_WARM_UPS: Final = 1


class Capture(Protocol):
    """Makes graphs."""

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        """Record what `run` does; what is returned does it again, at the same addresses."""


class GraphRecorder:
    """Graphs of one device, largest first, so that the smaller ones find room in the pool of the first.

    Attributes:
        bytes: of the card's memory that the graphs took, as free memory tells it.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._warm_ups = _FIRST_WARM_UPS
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        """Capture a step."""
        free, _ = torch.cuda.mem_get_info()
        graph = self._captured(run)
        self.bytes += max(free - torch.cuda.mem_get_info()[0], 0)
        return graph.replay

    def _captured(self, run: Callable[[], None]) -> torch.cuda.CUDAGraph:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels are chosen and workspaces taken before the capture
            for _ in range(self._warm_ups):
                run()
        self._warm_ups = _WARM_UPS
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            run()
        return graph


def device_capture(device: torch.device) -> Capture | None:
    """How a device's steps become graphs; None where they are run operator by operator."""
    return GraphRecorder() if device.type == "cuda" and torch.cuda.is_available() else None
