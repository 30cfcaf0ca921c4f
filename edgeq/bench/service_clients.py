"""Clients of a running `edgeq serve`: streamed answers over HTTP, timed at the client's end."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from ipaddress import ip_address
from socket import SHUT_RDWR, socket
from threading import Event
from typing import Any, Final
from urllib.parse import urlsplit

from PIL import Image
from pydantic import BaseModel, Field

from edgeq.bench.answers import AnswerLoad, ClientsFigures, clients_figures, fresh_requests
from edgeq.errors import EngineError, InputError
from edgeq.strict_json import read_model

__all__ = ["ServiceAddress", "measure_service"]

PATH: Final = "/v1/chat/completions"
MODELS: Final = "/v1/models"

_PATIENCE_S: Final = 600.0
_MOST_LINE: Final = 1 << 20
_MOST_ERROR: Final = 1 << 16
_DATA, _DONE = b"data: ", b"[DONE]"
_SHOWN: Final = 200
_FINGERPRINT: Final = 12

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ServiceAddress:
    """Where a service listens on this machine.

    Attributes:
        host: an address of the loopback network.
        port: of TCP.
        token: that it wants; None for none.
    """

    host: str
    port: int
    token: str | None = None

    @classmethod
    def of(cls, url: str, token: str | None = None) -> ServiceAddress:
        """Read an address such as `http://127.0.0.1:8000`.

        Raises:
            InputError: it is none, or not on this machine: power and temperature would be another's.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or 80
            loopback = host == "localhost" or ip_address(host).is_loopback
        except ValueError:
            loopback, parts = False, urlsplit("")
        if not loopback or parts.scheme != "http" or parts.path not in ("", "/") or parts.query:
            raise InputError(
                f"{url[:_SHOWN]!r} is no address of a service on this machine", expected="such as http://127.0.0.1:8000"
            )
        return cls(host, port, token)


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    """What is looked at of the list of models."""

    data: tuple[_Model, ...]


class _Delta(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    delta: _Delta


class _Usage(BaseModel):
    completion_tokens: int = Field(ge=0)


class _Chunk(BaseModel):
    """What is looked at of one event; whatever else is in it does not matter."""

    system_fingerprint: str = ""
    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    error: Any = None


@dataclass(frozen=True)
class _Clients:
    """All of them together.

    Attributes:
        sockets: that they wait at; http.client lets go of one whose answer is its last.
        over: nobody shall ask any more.
    """

    sockets: list[socket] = field(default_factory=list)
    over: Event = field(default_factory=Event)

    def connect(self, connection: HTTPConnection) -> None:
        """Open it, so that `end` closes it; raises OSError."""
        connection.connect()
        self.sockets.append(connection.sock)

    def end(self) -> None:
        """Nobody waits for an answer any more, whatever the service does."""
        self.over.set()
        for each in self.sockets:
            with suppress(OSError):  # it is closed already
                each.shutdown(SHUT_RDWR)


@dataclass(frozen=True)
class _Heard:
    """One answer: seconds to the first piece of text and to the end, and tokens by the service's count."""

    first: float
    total: float
    tokens: int


def measure_service(
    address: ServiceAddress, load: AnswerLoad, digest: str, report: Progress
) -> tuple[ClientsFigures, ...]:
    """Let clients ask a service, by one, and by as many at once as the load has.

    Its model ends answers by itself, so that an answer may have fewer tokens than were asked for.

    Args:
        address: of the service.
        load: what is asked.
        digest: of the bundle that it must serve, SHA-256 of the manifest in hexadecimal.
        report: called as it goes on.

    Returns:
        A row for each number of clients.

    Raises:
        EngineError: no service answers there, it serves another bundle, or it refuses a request.
    """
    bodies = _bodies(load, _served_model(address))
    for number in range(load.warmup):
        report("warm-up", number, load.warmup)
        _ask_all(address, [next(bodies)], digest, _Clients())
    found = []
    for clients in dict.fromkeys((1, *load.clients)):
        each = load.repeats if clients == 1 else max(2, -(-load.repeats // clients))
        report(f"{clients} client{'s' if clients > 1 else ''}", 0, clients * each)
        found.append(_together(address, [[next(bodies) for _ in range(each)] for _ in range(clients)], digest))
    return tuple(found)


def _served_model(address: ServiceAddress) -> str:
    """The name that the service has for its model."""
    with _connected(address) as connection:
        connection.request("GET", MODELS, headers=_headers(address))
        answer = connection.getresponse()
        _check_status(answer)
        listed = read_model(_Models, answer.read(_MOST_LINE)).data
        if not listed:
            raise ValueError(f"{MODELS} lists no model")
        return listed[0].id


def _bodies(load: AnswerLoad, model: str) -> Iterator[bytes]:
    """Requests about images that nobody has asked about before, for ever."""
    for ask in fresh_requests(load):
        (picture,) = ask.images
        assert isinstance(picture, Image.Image)
        file = io.BytesIO()
        picture.save(file, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": load.question}]
        asked = {"model": model, "messages": [{"role": "user", "content": parts}], "max_tokens": load.tokens}
        yield json.dumps({**asked, "stream": True, "stream_options": {"include_usage": True}}).encode()


def _together(address: ServiceAddress, shares: Sequence[Sequence[bytes]], digest: str) -> ClientsFigures:
    """Each client asks its share, one after the other."""
    everyone, start = _Clients(), time.perf_counter()
    with ThreadPoolExecutor(len(shares)) as pool:
        asking = [pool.submit(_ask_all, address, share, digest, everyone) for share in shares]
        try:
            heard = [one for client in asking for one in client.result()]
        except BaseException:
            everyone.end()
            raise
    seconds = time.perf_counter() - start
    times = [(one.first, one.total) for one in heard]
    return clients_figures(len(shares), times, sum(one.tokens for one in heard), seconds)


def _ask_all(address: ServiceAddress, bodies: Sequence[bytes], digest: str, everyone: _Clients) -> list[_Heard]:
    """One client with a connection of its own."""
    with _connected(address) as connection:
        return [_ask(connection, address, body, digest, everyone) for body in bodies if not everyone.over.is_set()]


@contextmanager
def _connected(address: ServiceAddress) -> Iterator[HTTPConnection]:
    """A connection; raises EngineError where it cannot be made, or what comes over it is none of edgeq's."""
    connection = HTTPConnection(address.host, address.port, timeout=_PATIENCE_S)
    try:
        yield connection
    except (OSError, HTTPException, ValueError) as error:
        raise EngineError(
            f"no service of edgeq answers at http://{address.host}:{address.port}",
            causes=(f"{type(error).__name__}: {error}"[:_SHOWN],),
            next_step="edgeq serve BUNDLE",
        ) from error
    finally:
        connection.close()


def _headers(address: ServiceAddress) -> dict[str, str]:
    authorized = {} if address.token is None else {"Authorization": f"Bearer {address.token}"}
    return {"Content-Type": "application/json", **authorized}


def _check_status(answer: HTTPResponse) -> None:
    if answer.status != 200:
        said = answer.read(_MOST_ERROR).decode("utf-8", "replace")
        raise EngineError(f"the service refused a request with status {answer.status}", causes=(said[:_SHOWN],))


def _ask(connection: HTTPConnection, address: ServiceAddress, body: bytes, digest: str, everyone: _Clients) -> _Heard:
    """Ask once, and hear all of the answer."""
    if connection.sock is None:
        everyone.connect(connection)
    start, first, tokens = time.perf_counter(), None, 0
    connection.request("POST", PATH, body, _headers(address))
    answer = connection.getresponse()
    _check_status(answer)
    for event in _events(answer):
        _check(event, digest)
        tokens = tokens if event.usage is None else event.usage.completion_tokens
        if first is None and any(choice.delta.content for choice in event.choices):
            first = time.perf_counter() - start
    total = time.perf_counter() - start
    return _Heard(total if first is None else first, total, tokens)


def _events(answer: HTTPResponse) -> Iterator[_Chunk]:
    """What a stream of server-sent events says, until it is done; raises ValueError for what is none."""
    while line := answer.readline(_MOST_LINE):
        if not line.startswith(_DATA):
            continue
        data = line.removeprefix(_DATA).strip()
        if data == _DONE:
            answer.read(_MOST_LINE)
            return
        yield read_model(_Chunk, data)
    raise ValueError("the stream ended without [DONE]")


def _check(event: _Chunk, digest: str) -> None:
    """Raise EngineError for an error in the stream, and for the answer of another bundle."""
    if event.error is not None:
        raise EngineError("the service could not answer", causes=(json.dumps(event.error)[:_SHOWN],))
    if event.system_fingerprint != digest[:_FINGERPRINT]:
        raise EngineError(
            f"another bundle is served there: its fingerprint is {event.system_fingerprint[:_SHOWN]!r}",
            expected=digest[:_FINGERPRINT],
            next_step="name the bundle that is served",
        )
