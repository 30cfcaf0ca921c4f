"""A budget for two requests, and twenty at once: all finish or are refused by the rule, and memory stays within it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.service_clients import Case, ask_all
from benchmarks.service_process import Serving, serving
from edgeq.runtime.scheduler.budget import serving_budget, serving_device
from edgeq.runtime.scheduler.request_memory import read_memory_figures, request_memory

__all__ = ["Tight", "measure_tight"]

TOGETHER = 20
MAX_OVER = 0.03
_PAUSE_S = 0.005
_UNBOUNDED = 1 << 50


@dataclass(frozen=True)
class Tight:
    """What came of it.

    Attributes:
        budget: bytes, of the whole process.
        slots: requests at once that the runtime found room for.
        peak: the most bytes of memory of its own that the process held.
        statuses: how often each came.
    """

    budget: int
    slots: int
    peak: int
    statuses: dict[int, int]

    @property
    def passed(self) -> bool:
        """Whether the rule was kept."""
        return self.peak <= self.budget * (1 + MAX_OVER) and set(self.statuses) <= {200, 429} and self.slots == 2


def measure_tight(bundle: Path, settings: dict[str, Any], fresh: Iterator[Case]) -> Tight:
    """Serve with a budget for two, let twenty clients ask at once, three times."""
    with serving(bundle, {**settings, "sequences": 2}) as service:
        kv = int(service.metric("edgeq_kv_bytes", state="allocated"))
    reserve = int(settings["reserve_mib"]) << 20
    budget = _always(bundle, reserve) + kv + _beside(bundle)
    tight = {**settings, "memory_gb": budget / 1e9, "queue": 8}
    with serving(bundle, tight) as service:
        peak, statuses = asyncio.run(_load(service, fresh))
        return Tight(budget, int(service.metric("edgeq_slots")), peak, dict(statuses))


def _always(bundle: Path, reserve: int) -> int:
    """Bytes for weights, libraries, kernels and the reserve."""
    device = serving_device(bundle, cuda=False)
    budget = serving_budget(bundle, device, reserve_bytes=reserve, total_bytes=_UNBOUNDED)
    return budget.total - budget.requests


def _beside(bundle: Path) -> int:
    """Bytes of two requests beside their keys and values."""
    figures = read_memory_figures(bundle, widens=True)
    picture = replace(figures.picture, tokens=min(figures.picture.tokens, figures.context))
    most = request_memory(figures, figures.context, (picture,), 0)
    return replace(most, kv=0, features=2 * most.features).alone


async def _load(service: Serving, fresh: Iterator[Case]) -> tuple[int, Counter[int]]:
    """The peak while clients ask, and what they were told."""
    peak, statuses, done = 0, Counter[int](), asyncio.Event()

    async def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, service.resident)
            await asyncio.sleep(_PAUSE_S)

    watching = asyncio.create_task(watch())
    for _ in range(3):
        heard, _ = await ask_all(service.url, service.model, list(islice(fresh, TOGETHER)), TOGETHER)
        statuses.update(one.status for one in heard)
    done.set()
    await watching
    return peak, statuses
