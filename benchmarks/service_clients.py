"""Clients of a running service: they ask for streamed answers, and note when each piece came."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
from PIL import Image

__all__ = ["PATH", "PATIENCE_S", "Case", "Heard", "ask", "ask_all", "ask_in_turn", "body", "encoded"]

PATH: Final = "/v1/chat/completions"
PATIENCE_S: Final = 600.0


@dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        image: a PNG.
        question: about it.
        tokens: of the answer, at most.
    """

    image: bytes
    question: str
    tokens: int


@dataclass(frozen=True)
class Heard:
    """One answer.

    Attributes:
        status: of HTTP.
        text: what was said.
        tokens: said.
        first: seconds to the first piece of text.
        total: seconds to the end.
    """

    status: int
    text: str
    tokens: int
    first: float
    total: float


def encoded(image: Image.Image) -> bytes:
    """A picture as PNG."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def body(model: str, case: Case, *, stream: bool) -> dict[str, Any]:
    """The request."""
    url = f"data:image/png;base64,{base64.b64encode(case.image).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": case.question}]
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": case.tokens,
    }
    return asked | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


def _prepared(model: str, case: Case) -> tuple[bytes, dict[str, str]]:
    """Body and header of a streamed request."""
    return json.dumps(body(model, case, stream=True)).encode(), {"content-type": "application/json"}


class _Hearing:
    """One streamed answer as it comes; the clock runs from the beginning."""

    def __init__(self) -> None:
        self._start, self._first = time.perf_counter(), 0.0
        self._pieces: list[str] = []
        self._tokens = 0

    def line(self, line: str) -> None:
        """One line of the body."""
        if not line.startswith("data: {"):
            return
        event = json.loads(line.removeprefix("data: "))
        self._tokens = (event.get("usage") or {}).get("completion_tokens", self._tokens)
        piece = "".join(choice["delta"].get("content", "") for choice in event.get("choices", ()))
        if piece and not self._first:
            self._first = time.perf_counter() - self._start
        self._pieces.append(piece)

    def heard(self, status: int) -> Heard:
        """All of it."""
        text = "".join(self._pieces).strip()
        return Heard(status, text, self._tokens, self._first, time.perf_counter() - self._start)


async def ask(client: httpx2.AsyncClient, model: str, case: Case) -> Heard:
    """Ask once; a service that is busy is not asked again."""
    content, headers = _prepared(model, case)
    hearing = _Hearing()
    async with client.stream("POST", PATH, content=content, headers=headers) as answer:
        async for line in answer.aiter_lines():
            hearing.line(line)
    return hearing.heard(answer.status_code)


def ask_in_turn(url: str, model: str, cases: Sequence[Case]) -> list[Heard]:
    """Ask one after another over one connection, with as little work at the client's end as there can be."""
    parts, answers = urlsplit(url), []
    with closing(HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE_S)) as connection:
        connection.connect()
        for case in cases:
            content, headers = _prepared(model, case)
            hearing = _Hearing()
            connection.request("POST", PATH, content, headers)
            answer = connection.getresponse()
            for line in answer:
                hearing.line(line.decode())
            answers.append(hearing.heard(answer.status))
    return answers


async def ask_all(url: str, model: str, cases: Sequence[Case], clients: int) -> tuple[list[Heard], float]:
    """Let so many clients work through the cases; the answers in the order of the cases, and the seconds of it all."""
    heard: list[Heard | None] = [None] * len(cases)
    waiting = iter(enumerate(cases))
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:

        async def work() -> None:
            for number, case in waiting:
                heard[number] = await ask(client, model, case)

        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(clients)))
    return [one for one in heard if one is not None], time.perf_counter() - start
