"""CUDA graphs simulated on a CPU: a step is recorded once, and done again without a look at the state of the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

__all__ = ["SimulatedGraphs"]


class SimulatedGraphs:
    """Records the operators of a step with their very tensors, and runs those again, as a graph's replay does.

    Attributes:
        count: graphs so far.
    """

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        """Capture a step."""
        self.count += 1
        tape = _Tape()
        with tape:
            run()
        return tape.replay


class _Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, made))
        return made

    def replay(self) -> None:
        """Each operator again, into the tensors that it made when it was recorded."""
        with torch.inference_mode():
            for func, args, kwargs, made in self._calls:
                again = func(*args, **kwargs)
                tree_map(_copied, made, again)


def _copied(made: Any, again: Any) -> Any:
    if isinstance(made, torch.Tensor) and made.data_ptr() != again.data_ptr():
        made.copy_(again)
    return made
