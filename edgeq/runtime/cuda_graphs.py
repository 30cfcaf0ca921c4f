"""Whether decode steps are recorded as CUDA graphs, and what became of it.

A capture can fail for reasons that harm nothing but speed: a kernel that synchronizes, another release of a library, a
driver. Then steps run kernel by kernel, which gives the same tokens, and that is told: in the log, in the metrics
and at `/v1/models`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Literal, TypeVar

from edgeq.errors import EngineError, first_line

__all__ = ["CudaGraphs", "GraphMode", "GraphState"]

GraphMode = Literal["auto", "off", "required"]
"""`auto`: capture, and go on without where that fails. `off`: do not try. `required`: a failed capture is an error."""

GraphState = Literal["none", "off", "captured", "failed"]
"""`none`: there is no GPU, or nothing was captured yet. `off`: as was asked. `failed`: kernel by kernel against the
wish."""

_LOGGER: Final = logging.getLogger("edgeq.runtime")
_Step = TypeVar("_Step")


class CudaGraphs:
    """The setting, and how it stands.

    Args:
        mode: what is wanted.

    Attributes:
        state: how it stands.
        reason: why a capture failed; empty where none did.
    """

    def __init__(self, mode: GraphMode = "auto") -> None:
        self._mode = mode
        self.state: GraphState = "off" if mode == "off" else "none"
        self.reason = ""

    def capture(self, record: Callable[[], _Step], eager: _Step, works: Callable[[], None]) -> _Step:
        """A step as a graph, or as it is: where that is wanted, or a capture failed now or before.

        Args:
            record: makes the graph; called on a GPU only.
            eager: the same step, kernel by kernel.
            works: runs `eager` once and waits for it; raises where the GPU does not work.

        Raises:
            EngineError: the capture failed, and graphs are required.
            Exception: the capture failed, and `works` as well: the GPU is lost.
        """
        if self.state in ("off", "failed"):
            return eager
        try:
            step = record()
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            if self._mode == "required":
                raise _required(reason) from error
        else:
            self.state = "captured"
            return step
        works()  # here, outside of the handler, so that what the failed capture held is let go before
        self.state, self.reason = "failed", reason
        _LOGGER.warning("the decode step could not be captured as a CUDA graph and runs kernel by kernel: %s", reason)
        return eager

    def without_gpu(self) -> None:
        """There is no GPU to capture on.

        Raises:
            EngineError: graphs are required.
        """
        if self._mode == "required":
            raise _required("torch finds no GPU")


def _required(reason: str) -> EngineError:
    return EngineError(
        "the decode step cannot be captured as a CUDA graph",
        causes=(reason,),
        next_step="set cuda_graphs: auto, with which steps run kernel by kernel where a capture fails",
    )
