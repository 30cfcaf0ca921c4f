"""Mixed load from 64 clients: valid, huge, broken, slow, cancelled, disconnected and hostile requests.

Then, what must hold: every status is a right one, questions that are asked again and again get the answer that they got
from a service with nothing else to do, nothing stays reserved.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

import httpx2

from benchmarks.attack_inputs import ENDLESS, IMAGES, JSON_BODIES, chat_about, json_request, long_conversation
from benchmarks.service_clients import PATH, PATIENCE_S, Case, body
from benchmarks.service_process import Serving

__all__ = ["CLIENTS", "SLOW_S", "Soak", "soak"]

CLIENTS = 64
_WARM_SHARE = 0.25
_AT_REST = ("edgeq_requests_running", "edgeq_requests_queued", "edgeq_reserved_bytes")
_IN_FLIGHT = "edgeq_http_requests_in_flight"
_GONE = 0
"""Stands for a connection that was closed, by whoever."""

_LOST = -2
"""Stands for one that ended under a client which was waiting for its answer."""

_WRONG = -3
"""Stands for another answer than the service gave when it had nothing else to do."""

_GOES_ON = 2 << 20
"""Bytes that an endless request sends, where nobody ends it."""

SLOW_S = 5.0
"""What the service must be told to give a body."""

Answered = Callable[["_Client", Case], Awaitable[int]]


@dataclass
class Soak:
    """What came of it.

    Attributes:
        answers: by kind of request, how often each status came; 0 where the client hung up.
        resident: bytes of the service's own memory, after a quarter of the time and at the end.
        failures: what does not hold, in words.
    """

    answers: dict[str, Counter[int]] = field(default_factory=dict)
    resident: tuple[int, int] = (1, 1)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Client:
    """One connection after another to a service."""

    http: httpx2.AsyncClient
    model: str
    host: str
    port: int
    quiet: dict[Case, str]

    async def post(self, content: bytes, media: str = "application/json") -> int:
        return (await self.answer(content, media))[0]

    async def answer(self, content: bytes, media: str = "application/json") -> tuple[int, str]:
        """The status, and the answer's words where it is 200."""
        answer = await self.http.post(PATH, content=content, headers={"content-type": media})
        if answer.status_code == 429 and "retry-after" not in answer.headers:
            return -1, ""
        words = answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else ""
        return answer.status_code, words.strip()

    def checked(self, case: Case, status: int, words: str) -> int:
        """The status, or `_WRONG` where a known question got another answer."""
        return status if status != 200 or self.quiet.get(case, words) == words else _WRONG

    async def bare(self, *pieces: bytes, pause: float = 0.0, read: bool = True) -> int:
        """Send pieces over a bare connection; the status that comes, or 0 after hanging up."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
            line = await asyncio.wait_for(reader.readline(), PATIENCE_S) if read else b""
            return int(line.split()[1]) if line else _GONE
        except (ConnectionError, IndexError):
            return _GONE
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def _valid(client: _Client, case: Case) -> int:
    return client.checked(case, *await client.answer(json.dumps(body(client.model, case, stream=False)).encode()))


async def _streamed(client: _Client, case: Case) -> int:
    answer = await client.http.post(PATH, json=body(client.model, case, stream=True))
    if answer.status_code != 200:
        return answer.status_code
    *pieces, last = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    if last != "[DONE]":
        return -1
    choices = [choice for piece in pieces for choice in json.loads(piece)["choices"]]
    return client.checked(case, 200, "".join(choice["delta"].get("content") or "" for choice in choices).strip())


async def _huge(client: _Client, case: Case) -> int:
    return await client.post(json.dumps(body(client.model, case, stream=False)).encode().ljust(3 << 20))


async def _not_json(client: _Client, case: Case) -> int:
    return await client.post(json.dumps(body(client.model, case, stream=False)).encode()[:-9])


async def _broken_image(client: _Client, case: Case) -> int:
    half = Case(case.image[: len(case.image) // 2], case.question, case.tokens)
    return await client.post(json.dumps(body(client.model, half, stream=False)).encode())


async def _no_http(client: _Client, _case: Case) -> int:
    return await client.bare(random.randbytes(64) + b"\r\n\r\n")


async def _slow(client: _Client, case: Case) -> int:
    whole = _wire(client, case, stream=False)
    return await client.bare(whole[:-40], pause=SLOW_S + 0.5)


async def _cancelled(client: _Client, case: Case) -> int:
    async with client.http.stream("POST", PATH, json=body(client.model, case, stream=True)) as answer:
        async for _piece in answer.aiter_bytes():
            break
        return answer.status_code


async def _disconnected(client: _Client, case: Case) -> int:
    whole = _wire(client, case, stream=False)
    return await client.bare(whole[: len(whole) // 2], read=False)


async def _impatient(client: _Client, case: Case) -> int:
    return await client.bare(_wire(client, case, stream=False), pause=0.02, read=False)


async def _endless(client: _Client, _case: Case) -> int:
    endless = random.choice(list(ENDLESS.values()))
    return await client.bare(endless.begun, *[endless.piece] * (_GOES_ON // len(endless.piece)), read=False)


async def _costly_json(client: _Client, _case: Case) -> int:
    return await client.bare(json_request(random.choice(_costly_bodies())))


async def _long_text(client: _Client, _case: Case) -> int:
    return await client.bare(json_request(long_conversation(client.model)))


async def _costly_image(client: _Client, _case: Case) -> int:
    return await client.bare(
        json_request(random.choice(_pictures()).replace(_NOBODY, json.dumps(client.model).encode()))
    )


_NOBODY = b'"inspector"'
_COSTLY_BODIES = ("a million numbers for messages", "217,000 keys", "as many items as are let through")
_COSTLY_IMAGES = ("a strip of 1 x 50 million", "50 million pixels of RGBA, 16 bit", "1,000 scans", "200 frames")


@cache
def _costly_bodies() -> list[bytes]:
    return [JSON_BODIES[name]() for name in _COSTLY_BODIES]


@cache
def _pictures() -> list[bytes]:
    return [chat_about(make(), media) for media, make in (IMAGES[name] for name in _COSTLY_IMAGES)]


_KINDS: dict[str, tuple[Answered, int, frozenset[int]]] = {
    "valid": (_valid, 6, frozenset({200, 429})),
    "streamed": (_streamed, 6, frozenset({200, 429})),
    "huge": (_huge, 1, frozenset({413, 429})),
    "not JSON": (_not_json, 2, frozenset({400})),
    "half an image": (_broken_image, 2, frozenset({422})),
    "no HTTP": (_no_http, 1, frozenset({400, _GONE})),
    "slow": (_slow, 1, frozenset({408})),
    "cancelled": (_cancelled, 3, frozenset({200, 429})),
    "disconnected": (_disconnected, 2, frozenset({_GONE})),
    "gone while waiting": (_impatient, 2, frozenset({_GONE})),
    "endless": (_endless, 1, frozenset({_GONE})),
    "costly JSON": (_costly_json, 1, frozenset({400, 413, 429, _GONE})),
    "long text": (_long_text, 1, frozenset({400, 413, 429, _GONE})),
    "costly image": (_costly_image, 1, frozenset({400, 413, 415, 422, 429, _GONE})),
}
"""Kind of request -> what it does, how often it is made, and what may come of it."""


def _wire(client: _Client, case: Case, *, stream: bool) -> bytes:
    content = json.dumps(body(client.model, case, stream=stream)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def soak(service: Serving, fresh: Iterator[Case], seconds: float) -> Soak:
    """Load a service for so long, let it come to rest, and look.

    Args:
        service: that runs.
        fresh: requests; one of eight images is asked about again and again.
        seconds: of load.
    """
    found = Soak({kind: Counter() for kind in _KINDS})
    _costly_bodies(), _pictures()  # made before the load, not within it
    known = [next(fresh) for _ in range(8)]
    host, _, port = service.url.removeprefix("http://").rpartition(":")
    limits = httpx2.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx2.AsyncClient(base_url=service.url, timeout=PATIENCE_S, limits=limits) as http:
        client = _Client(http, service.model, host, int(port), {})
        for case in known:
            status, words = await client.answer(json.dumps(body(service.model, case, stream=False)).encode())
            if status != 200:
                found.failures.append(f"a question alone got status {status}")
            client.quiet[case] = words
        end = time.monotonic() + seconds
        work = [asyncio.create_task(_work(client, found, known, fresh, end)) for _ in range(CLIENTS)]
        await asyncio.sleep(seconds * _WARM_SHARE)
        warm = service.resident
        await asyncio.gather(*work)
    await _rest(service)
    found.resident = (warm, service.resident)
    found.failures += _broken(found, service)
    return found


async def _work(client: _Client, found: Soak, known: list[Case], fresh: Iterator[Case], end: float) -> None:
    """One client: a request of some kind, then another one."""
    kinds, weights = list(_KINDS), [weight for _, weight, _ in _KINDS.values()]
    while time.monotonic() < end:
        (kind,) = random.choices(kinds, weights)
        case = random.choice(known) if random.random() < 0.5 else next(fresh)
        try:
            status = await _KINDS[kind][0](client, case)
        except httpx2.TransportError:
            status = _LOST
        found.answers[kind][status] += 1


async def _rest(service: Serving) -> None:
    """Until nothing is under way, at most a minute."""
    for _ in range(600):
        if not any(service.metric(name) for name in _AT_REST) and service.metric(_IN_FLIGHT) == 1:
            return
        await asyncio.sleep(0.1)


def _broken(found: Soak, service: Serving) -> list[str]:
    """What does not hold."""
    failures = [
        f"{kind}: status {status} came {times} times"
        for kind, statuses in found.answers.items()
        for status, times in statuses.items()
        if status not in _KINDS[kind][2]
    ]
    left = {name: service.metric(name) for name in _AT_REST}
    failures += [f"{name} is {value:g} after the last request" for name, value in left.items() if value]
    if (in_flight := service.metric(_IN_FLIGHT)) != 1:  # the one that asks
        failures.append(f"{in_flight - 1:g} requests are still in flight")
    failed = [line for line in service.log.read_text().splitlines() if '"failed"' in line]
    if failed:
        failures.append(f"the log has {len(failed)} failures, the first: {failed[0][:500]}")
    return failures
