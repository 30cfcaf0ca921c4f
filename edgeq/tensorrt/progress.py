"""How far a build is, through TensorRT's IProgressMonitor; it is the only way to stop one, too."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["Progress", "progress_monitor"]

Progress = Callable[[str, int, int], None]
"""Called as (stage, done, total); total is 0 for a stage that is not counted. What it raises stops the build."""


def progress_monitor(trt: ModuleType, report: Progress | None = None) -> Any:
    """A `trt.IProgressMonitor` that calls `report`, and stops the build once that has raised.

    TensorRT calls it from several threads. An exception may not pass through TensorRT, so the first one is kept, of
    Ctrl-C too, and `check()` raises it after the build. Without `report` it still lets Ctrl-C through.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.failure: BaseException | None = None
            self._totals: dict[str, int] = {}
            self._lock = threading.RLock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            self._totals[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name, self._totals.get(phase_name, 0))
            self._totals.pop(phase_name, None)

        def check(self) -> None:
            """Raise what `report` raised."""
            if self.failure is not None:
                raise self.failure

        def _tell(self, phase: str, done: int) -> None:
            with self._lock:
                if self.failure is not None or report is None:
                    return
                try:
                    report(f"engine: {phase}", done, self._totals.get(phase, 0))
                except BaseException as error:  # Ctrl-C arrives here as well
                    self.failure = error

    return Monitor()
