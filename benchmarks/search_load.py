"""Text search over HTTP under open-loop load: edgeq's service beside a plain server of transformers and faiss.

    python -m benchmarks.search_load --rates 50 100 200 400
    python -m benchmarks.search_load --towers vit-b-32 --rates 2 5 10 20 40 60 80

`benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import httpx2

from benchmarks.open_loop import Burst, offer
from benchmarks.process import free_port, serving_process
from benchmarks.random_clip import write_vit_b_32
from benchmarks.service_process import serving

__all__ = ["SIDES", "TOWERS", "Side", "drawn_texts", "main", "sustained", "table"]

_WORDS: Final = (
    *("severe", "minor", "moderate", "corrosion", "crack", "spalling", "shadow", "top", "left", "right", "bottom"),
    *("centre", "wide", "hairline", "surface", "bridge", "beam", "rust", "near", "far", "old", "new", "wet", "dry"),
)
_LENGTH: Final = 8
_REPEATED: Final = 250
"""Texts that are asked for again and again where the cache is to have them."""

_ALONE: Final = """
from edgeq.runtime.retrieval.batching import Batcher
Batcher.__init__.__kwdefaults__.update(most=1, window=0.0)
"""
_PADDED: Final = """
from edgeq.runtime.retrieval.tokenizer import TextTokenizer
trimmed = TextTokenizer.ids
TextTokenizer.ids = lambda self, texts: [self._padded(ids) for ids in trimmed(self, texts)]
"""


@dataclass(frozen=True)
class Side:
    """A server, and what it is asked.

    Attributes:
        settings: of edgeq's service, beside those of all; None for the plain server.
        before: what its process runs before it serves, to leave something out.
        repeated: ask for a few texts again and again, rather than for each text once.
        together: texts of one request to `/v1/embeddings`; 0 for a request to `/v1/search`.
    """

    settings: Mapping[str, Any] | None = None
    before: str = ""
    repeated: bool = False
    together: int = 0


SIDES: Final[dict[str, Side]] = {
    "edgeq": Side({}),
    "edgeq, texts seen before": Side({}, repeated=True),
    "edgeq, seen before, no cache": Side({"cache_mib": 0}, repeated=True),
    "edgeq, no batches": Side({}, _ALONE),
    "edgeq, padded": Side({"canaries": False}, _PADDED),
    "edgeq, 8 texts a request": Side({}, together=8),
    "plain": Side(),
}
TOWERS: Final = ("small", "vit-b-32")


def drawn_texts(seed: int) -> Iterator[str]:
    """Eight words each, none of them twice, for ever."""
    rng = random.Random(seed)
    for number in range(1 << 60):
        yield " ".join([*(rng.choice(_WORDS) for _ in range(_LENGTH - 1)), str(number)])


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
    lines = [
        "| server | offered, requests/s | answered | p50, ms | p99, ms | server, CPU ms | client, CPU ms |",
        "|" + "---|" * 7,
    ]
    lines += [
        f"| {one.who} | {one.rate:g} | {100 * one.answered:.1f} % | {1e3 * one.p50:.1f} | {1e3 * one.p99:.1f} "
        f"| {1e3 * one.server:.2f} | {1e3 * one.client:.2f} |"
        for one in bursts
    ]
    names = list(dict.fromkeys(one.who for one in bursts))
    told = ", ".join(f"{name} {sustained(bursts, name):g} requests/s" for name in names)
    return "\n".join([*lines, "", f"Sustained: {told}."])


def prepare_small(work: Path) -> None:
    """A bundle of the small CLIP that comes along, and a catalog of 400 scenes."""
    import edgeq
    from edgeq.demo.clip.pairs import CAPTIONS, CLIP, PAIRS, lay_out_clip

    lay_out_clip(work)
    (work / CLIP).rename(work / "model")
    pairs = work / PAIRS
    options = edgeq.RetrievalOptions()
    edgeq.prepare(
        work / "model",
        pairs,
        work / "bundle",
        captions=work / CAPTIONS,
        evaluation=pairs / "pairs.jsonl",
        options=options,
    )
    edgeq.index_images(work / "bundle", pairs, work / "catalog")


def prepare_vit_b_32(work: Path) -> None:
    """A bundle of random weights, which nothing can judge: its INT8 is for time alone; and a catalog of 120 scenes."""
    import edgeq
    from edgeq.demo.clip.pairs import write_captions, write_pairs

    write_vit_b_32(work / "model")
    pairs = work / "pairs"
    pairs.mkdir()
    write_pairs(pairs, 120)
    write_captions(work / "captions.txt", 300)
    options = edgeq.RetrievalOptions(
        unjudged="int8", method="minmax", calibration_captions=128, photographs=4, canaries=2
    )
    edgeq.prepare(work / "model", pairs, work / "bundle", captions=work / "captions.txt", options=options)
    edgeq.index_images(work / "bundle", pairs, work / "catalog")


def measure(names: Sequence[str], rates: Sequence[float], seconds: float, work: Path) -> list[Burst]:
    """Every side at each rate; one server runs at a time, and a side ends at the first rate that it does not sustain.

    Args:
        names: of `SIDES`.
        rates: requests a second.
        seconds: of each rate.
        work: with `model`, `bundle` and `catalog`.
    """
    found: list[Burst] = []
    texts = drawn_texts(0)
    for name in names:
        side = SIDES[name]
        few = list(islice(texts, _REPEATED)) if side.repeated else []
        asked = cycle(few) if few else texts
        with _served(side, work) as (url, model, pid):
            body, path = _body(side, asked, model), "/v1/embeddings" if side.together else "/v1/search"
            asyncio.run(offer(url, "", min(rates), 2.0, body, path=path))  # warms up
            if few:
                told = {"input": few, "model": model, "encoding_format": "base64"}
                httpx2.post(f"{url}/v1/embeddings", json=told, timeout=120).raise_for_status()
            for rate in sorted(rates):
                burst = asyncio.run(offer(url, name, rate, seconds, body, path=path, spent=lambda: _spent(pid)))
                found.append(burst)
                print(burst, file=sys.stderr, flush=True)
                if not burst.good:
                    break
    return found


def _body(side: Side, texts: Iterator[str], model: str | None) -> Callable[[], Mapping[str, Any]]:
    named = {} if model is None else {"model": model}
    if side.together:
        return lambda: {"input": list(islice(texts, side.together)), "encoding_format": "base64", **named}
    return lambda: {"query": next(texts), "k": 10, **named}


@contextmanager
def _served(side: Side, work: Path) -> Iterator[tuple[str, str | None, int]]:
    """Address, name of the model, and process of a server."""
    if side.settings is None:
        with _plain(work / "model", work / "catalog") as (url, pid):
            yield url, None, pid
        return
    settings = {"index": str(work / "catalog"), "queue": 1000, **side.settings}
    with serving(work / "bundle", settings, before=side.before) as ours:
        yield ours.url, ours.model, ours.pid


def _spent(pid: int) -> float:
    """Seconds of the processor that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _plain(model: Path, catalog: Path) -> Iterator[tuple[str, int]]:
    """The plain server's address, once it answers, and its process."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "benchmarks.peers.plain_search", str(model), str(catalog), str(port)]

    def answers() -> bool:
        try:
            httpx2.post(f"{url}/v1/search", json={"query": "a", "k": 1}, timeout=60)
        except httpx2.ConnectError:
            return False
        return True

    with serving_process(command, answers) as process:
        yield url, process.pid


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--towers", choices=TOWERS, default="small")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=tuple(SIDES))
    parser.add_argument("--rates", type=float, nargs="+", default=(10, 25, 50, 100, 150, 200, 300, 400, 600, 800, 1000))
    parser.add_argument("--seconds", type=float, default=8.0, help="of each rate")
    parser.add_argument("--work", type=Path, help="keeps model, bundle and catalog there; a temporary folder otherwise")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="edgeq-search-load-") as scratch:
        work = given.work or Path(scratch)
        if not (work / "catalog").exists():
            work.mkdir(parents=True, exist_ok=True)
            (prepare_small if given.towers == "small" else prepare_vit_b_32)(work)
        print(table(measure(given.sides, given.rates, given.seconds, work)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
