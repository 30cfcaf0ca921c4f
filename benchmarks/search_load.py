"""Text search over HTTP under open-loop load: edgeq's service beside a plain server of transformers and faiss.

    python -m benchmarks.search_load --rates 50 100 200 400

`benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
import numpy as np

from benchmarks.process import ROOT
from benchmarks.service_process import serving

__all__ = ["Burst", "drawn_texts", "main", "offer", "sustained", "table"]

_WORDS: Final = (
    *("severe", "minor", "moderate", "corrosion", "crack", "spalling", "shadow", "top", "left", "right", "bottom"),
    *("centre", "wide", "hairline", "surface", "bridge", "beam", "rust", "near", "far", "old", "new", "wet", "dry"),
)
_LENGTH: Final = 8
_GOOD: Final = 0.99
"""Share of requests that must be answered for a rate to be sustained."""

_PATIENCE_S: Final = 0.5
"""The 99th percentile must be below."""


@dataclass(frozen=True)
class Burst:
    """What became of requests that were offered at one rate.

    Attributes:
        who: in words.
        rate: requests a second that were offered.
        answered: share that got an answer.
        p50, p99: seconds from the moment a request was due to its answer; of those answered.
    """

    who: str
    rate: float
    answered: float
    p50: float
    p99: float

    @property
    def good(self) -> bool:
        """Whether the rate is sustained."""
        return self.answered >= _GOOD and self.p99 < _PATIENCE_S


def drawn_texts(seed: int) -> Iterator[str]:
    """Eight words each, none of them twice, for ever."""
    rng = random.Random(seed)
    for number in range(1 << 60):
        yield " ".join([*(rng.choice(_WORDS) for _ in range(_LENGTH - 1)), str(number)])


async def offer(
    url: str, who: str, rate: float, seconds: float, texts: Iterator[str], *, model: str | None = None
) -> Burst:
    """Send requests when they are due, whatever became of those before (an open loop).

    Args:
        url: of the server.
        who: in words.
        rate: requests a second, at random moments (Poisson).
        seconds: so long.
        texts: asked for.
        model: named in requests; None names none.
    """
    rng, times, failed = random.Random(int(rate)), [], 0
    async with httpx2.AsyncClient(base_url=url, timeout=10.0, limits=httpx2.Limits(max_connections=1000)) as client:

        async def ask(text: str, due: float) -> None:
            nonlocal failed
            named = {} if model is None else {"model": model}
            try:
                answer = await client.post("/v1/search", json={"query": text, "k": 10, **named})
                if answer.status_code == 200:
                    times.append(time.perf_counter() - due)
                    return
            except httpx2.HTTPError:
                pass
            failed += 1

        start, due, tasks = time.perf_counter(), 0.0, []
        while due < seconds:
            await asyncio.sleep(max(start + due - time.perf_counter(), 0))
            tasks.append(asyncio.create_task(ask(next(texts), start + due)))
            due += rng.expovariate(rate)
        await asyncio.gather(*tasks)
    p50, p99 = np.percentile(times, (50, 99)) if times else (float("inf"), float("inf"))
    return Burst(who, rate, len(times) / max(len(times) + failed, 1), float(p50), float(p99))


def sustained(bursts: Sequence[Burst], who: str) -> float:
    """The highest rate up to which all were good; 0 where none was."""
    best = 0.0
    for burst in sorted((one for one in bursts if one.who == who), key=lambda one: one.rate):
        if not burst.good:
            break
        best = burst.rate
    return best


def table(bursts: Sequence[Burst]) -> str:
    """Markdown, and the sustained rates."""
    lines = ["| server | offered, requests/s | answered | p50, ms | p99, ms |", "|---|---|---|---|---|"]
    lines += [
        f"| {one.who} | {one.rate:g} | {100 * one.answered:.1f} % | {1e3 * one.p50:.1f} | {1e3 * one.p99:.1f} |"
        for one in bursts
    ]
    names = list(dict.fromkeys(one.who for one in bursts))
    told = ", ".join(f"{name} {sustained(bursts, name):g} requests/s" for name in names)
    return "\n".join([*lines, "", f"Sustained: {told}."])


def measure(rates: Sequence[float], seconds: float, scratch: Path) -> list[Burst]:
    """Both servers in turn at each rate, on the small CLIP that comes along and 400 scenes."""
    import edgeq
    from edgeq.demo.clip.pairs import CAPTIONS, CLIP, PAIRS, lay_out_clip

    lay_out_clip(scratch)
    pairs = scratch / PAIRS
    edgeq.prepare(
        scratch / CLIP,
        pairs,
        scratch / "bundle",
        captions=scratch / CAPTIONS,
        evaluation=pairs / "pairs.jsonl",
        options=edgeq.RetrievalOptions(),
    )
    edgeq.index_images(scratch / "bundle", pairs, scratch / "catalog")
    settings = {"index": str(scratch / "catalog"), "queue": 1000}
    found: list[Burst] = []
    texts = drawn_texts(0)
    with serving(scratch / "bundle", settings) as ours, _plain(scratch / CLIP, scratch / "catalog") as plain:
        for url, model in ((ours.url, ours.model), (plain, None)):
            asyncio.run(offer(url, "", 20, 1.0, texts, model=model))  # warms up
        for rate in rates:
            for who, url, model in (("edgeq", ours.url, ours.model), ("plain", plain, None)):
                if any(not one.good for one in found if one.who == who):
                    continue
                found.append(asyncio.run(offer(url, who, rate, seconds, texts, model=model)))
                print(found[-1], file=sys.stderr)
    return found


@contextmanager
def _plain(model: Path, catalog: Path) -> Iterator[str]:
    """The plain server's address, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.peers.plain_search", str(model), str(catalog), str(port)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            while process.poll() is None:
                try:
                    httpx2.post(f"{url}/v1/search", json={"query": "a", "k": 1}, timeout=60)
                    break
                except httpx2.ConnectError:
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=float, nargs="+", default=(25, 50, 100, 150, 200, 300, 400, 600, 800, 1000))
    parser.add_argument("--seconds", type=float, default=8.0, help="of each rate")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="edgeq-search-load-") as scratch:
        print(table(measure(given.rates, given.seconds, Path(scratch))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
