"""The benchmark of search under open-loop load: what is offered, what counts as sustained."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from transformers import AutoTokenizer

from benchmarks.open_loop import Burst, offer
from benchmarks.random_clip import write_tokenizer
from benchmarks.search_load import drawn_texts, main, sustained, table

PATIENCE_S = 20.0


@contextmanager
def answering(status: int, heard: list[str]) -> Iterator[str]:
    """A server that notes what it is asked, and answers with a status."""

    async def search(request: Request) -> JSONResponse:
        heard.append((await request.json())["query"])
        return JSONResponse({"results": []}, status_code=status)

    app = Starlette(routes=[Route("/v1/search", search, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(server, started)))
    thread.start()
    assert started.wait(PATIENCE_S)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)


async def _serve(server: uvicorn.Server, started: threading.Event) -> None:
    run = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    started.set()
    await run


@pytest.mark.parametrize(("status", "answered"), [(200, 1.0), (429, 0.0)])
def test_requests_are_sent_when_they_are_due(status: int, answered: float) -> None:
    """Forty a second for half a second: twenty, give or take what a Poisson process does with this seed."""
    heard: list[str] = []
    texts = drawn_texts(0)
    with answering(status, heard) as url:
        burst = asyncio.run(offer(url, "somebody", 40, 0.5, lambda: {"query": next(texts)}))
    assert (burst.who, burst.rate, burst.answered) == ("somebody", 40, answered)
    assert 8 <= len(heard) <= 36
    assert len(set(heard)) == len(heard)
    assert burst.good == (status == 200 and burst.p99 < 0.5)


def test_texts_are_never_the_same() -> None:
    texts = list(islice(drawn_texts(3), 500))
    assert len(set(texts)) == 500
    assert {len(text.split()) for text in texts} == {8}


def test_the_rate_before_the_first_that_is_not_good_is_sustained() -> None:
    bursts = [
        Burst("a", 10, 1.0, 0.01, 0.02, client=0.00025, server=0.0015),
        Burst("a", 20, 0.99, 0.01, 0.4),
        Burst("a", 40, 1.0, 0.1, 0.6),
        Burst("a", 80, 1.0, 0.01, 0.02),
        Burst("b", 10, 0.5, 0.01, 0.02),
    ]
    assert (sustained(bursts, "a"), sustained(bursts, "b"), sustained(bursts, "c")) == (20, 0, 0)
    text = table(bursts[:1])
    assert "| a | 10 | 100.0 % | 10.0 | 20.0 | 1.50 | 0.25 |" in text
    assert text.endswith("Sustained: a 10 requests/s.")


def test_rates_are_numbers() -> None:
    with pytest.raises(SystemExit):
        main(["--rates", "many"])


def test_nobody_answers() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        burst = asyncio.run(offer(url, "nobody", 40, 0.2, lambda: {"query": "a"}))
    assert burst.answered == 0
    assert not burst.good


def test_random_towers_have_a_tokenizer_of_clips_size(tmp_path: Path) -> None:
    """Start and end of text have the last two numbers, and all words their own."""
    (tmp_path / "model").mkdir()
    write_tokenizer(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer("minor corrosion at the left")["input_ids"]
    assert len(tokenizer) == 49_408
    assert (ids[0], ids[-1], max(ids[1:-1]) < 49_406) == (49_406, 49_407, True)
    assert 5 <= len(ids) <= 12
