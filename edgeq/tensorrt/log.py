"""What TensorRT logs: its errors and warnings are kept, since its functions give None and no reason."""

from __future__ import annotations

from collections import deque
from types import ModuleType
from typing import Any, Final

__all__ = ["build_log"]

_KEPT: Final = 200
_SHOWN: Final = 5


def build_log(trt: ModuleType) -> Any:
    """A `trt.ILogger` with `errors` and `warnings`, the last 200 texts of each, and `causes()`, the last few errors.

    The class is made here, since its base class exists once TensorRT is imported.
    """

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: deque[str] = deque(maxlen=_KEPT)
            self.warnings: deque[str] = deque(maxlen=_KEPT)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(msg)
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(msg)

        def causes(self) -> tuple[str, ...]:
            return tuple(" ".join(text.split())[:300] for text in list(self.errors)[-_SHOWN:])

    return Log()
