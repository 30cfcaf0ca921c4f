"""Clients of a running service: they ask for streamed answers, and note when each piece came."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
from PIL import Image

__all__ = ["Case", "Heard", "ask", "ask_all", "ask_in_turn", "encoded"]

PATIENCE_S = 600.0


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


async def ask(client: httpx2.AsyncClient, model: str, case: Case) -> Heard:
    """Ask once; a service that is busy is not asked again. The clock runs once the request is written."""
    content, headers = json.dumps(body(model, case, stream=True)), {"content-type": "application/json"}
    start, first, pieces, tokens = time.perf_counter(), 0.0, [], 0
    async with client.stream("POST", "/v1/chat/completions", content=content, headers=headers) as answer:
        if answer.status_code != 200:
            await answer.aread()
            return Heard(answer.status_code, "", 0, 0.0, time.perf_counter() - start)
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            piece = "".join(choice["delta"].get("content", "") for choice in event.get("choices", ()))
            if piece and not first:
                first = time.perf_counter() - start
            pieces.append(piece)
    return Heard(200, "".join(pieces).strip(), tokens, first, time.perf_counter() - start)


async def ask_in_turn(url: str, model: str, cases: Sequence[Case]) -> list[Heard]:
    """Ask one after another over one connection, as one client would; the first request opens it."""
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
        return [await ask(client, model, case) for case in cases]


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
