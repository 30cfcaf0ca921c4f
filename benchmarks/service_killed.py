"""`kill -9` in the middle of an answer, and the service started again: how soon it is ready, and what is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx2

from benchmarks.service_clients import PATH, PATIENCE_S, Case, ask_in_turn, body
from benchmarks.service_process import Serving, serving
from edgeq.files import sha256_file

__all__ = ["Killed", "measure_killed"]

MAX_SLOWER = 1.5
_ROUNDS = 3


@dataclass(frozen=True)
class Killed:
    """What came of it.

    Attributes:
        usual: median seconds from the command to a service that is ready, after one that was stopped with SIGTERM.
        again: the same after one that was killed.
        equal: whether each answer after it was that of before.
        untouched: whether the bundle's files have the same names and bytes.
    """

    usual: float
    again: float
    equal: bool
    untouched: bool

    @property
    def passed(self) -> bool:
        """Whether there was nothing to repair."""
        return self.equal and self.untouched and self.again <= MAX_SLOWER * self.usual


def measure_killed(bundle: Path, settings: dict[str, Any], fresh: Iterator[Case]) -> Killed:
    """Start, ask, stop; start, kill within an answer; start, ask; several times."""
    before, case = _files(bundle), next(fresh)
    usual, again, texts = list[float](), list[float](), set[str]()
    with serving(bundle, settings):
        pass  # the files are in the page cache from now on
    for _ in range(_ROUNDS):
        for seconds in (usual, again):
            start = time.perf_counter()
            with serving(bundle, settings) as service:
                seconds.append(time.perf_counter() - start)
                texts.add(ask_in_turn(service.url, service.model, [case])[0].text)
                if seconds is usual:
                    _kill_within_an_answer(service, next(fresh))
    return Killed(median(usual), median(again), len(texts) == 1, _files(bundle) == before)


def _kill_within_an_answer(service: Serving, case: Case) -> None:
    """The connection ends in the middle, whatever of the answer had come."""
    with suppress(httpx2.TransportError), httpx2.Client(base_url=service.url, timeout=PATIENCE_S) as client:
        asked = body(service.model, case, stream=True)
        with client.stream("POST", PATH, json=asked) as answer:
            pieces = answer.iter_bytes()
            next(pieces)
            os.kill(service.pid, signal.SIGKILL)
            for _ in pieces:
                pass


def _files(bundle: Path) -> dict[str, str]:
    """Digests of all files, by name."""
    return {str(path.relative_to(bundle)): sha256_file(path) for path in sorted(bundle.rglob("*")) if path.is_file()}
