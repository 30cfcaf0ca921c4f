"""What a section is given, and what it gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Finding", "Scale", "Section", "milliseconds"]

Finding = dict[str, Any]
"""One line of the output. `fine` is False where the runtime counts on something that is not so here."""


@dataclass(frozen=True)
class Scale:
    """How much is asked.

    Attributes:
        tiny: small enough for a CPU: whether the section itself runs.
        config: directory with the config.json of the language model whose shape is asked about.
        bundle: of a vision-language model, for the vision engine; None makes the demo's, but not where it is tiny.
    """

    tiny: bool
    config: Path
    bundle: Path | None = None

    @property
    def device(self) -> torch.device:
        """Where it is asked."""
        import torch

        return torch.device("cpu" if self.tiny else "cuda")


Section = Callable[[Scale], Iterator[Finding]]


def milliseconds(run: Callable[[], object], device: torch.device, times: int = 20) -> float:
    """Of one run, on the device's own clock; once to warm up."""
    import torch

    run()
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(times):
            run()
        return round(1e3 * (time.perf_counter() - start) / times, 4)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(times):
        run()
    end.record()
    end.synchronize()
    taken: float = begin.elapsed_time(end)
    return round(taken / times, 4)
