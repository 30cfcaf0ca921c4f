"""A service on a real port, a simulated runtime behind it, and what a client sends."""

from __future__ import annotations

import base64
import io
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import numpy as np
import openai
from PIL import Image

from edgeq.bundle.manifest import Manifest
from edgeq.confined.pool import Pool
from edgeq.engine import Engine
from edgeq.errors import EdgeqError
from edgeq.model.images.confined_decode import DECODER
from edgeq.model.images.preprocess import Preprocess
from edgeq.runtime.scheduler.errors import ClosedError
from edgeq.runtime.scheduler.snapshot import CacheFigures, Snapshot
from edgeq.runtime.vision_graph import VisionModel
from edgeq.runtime.vlm.api import EncodedImage, GenerationRequest
from edgeq.runtime.vlm.stream import Done, Failed, Stream, Token, Usage
from edgeq.service.app import Service, make_service
from edgeq.service.http.notify import Notifier
from edgeq.service.report import reader_of
from edgeq.service.report_phrases import DEFAULT_PHRASES
from edgeq.service.routes.fetch import Fetcher
from edgeq.service.routes.vision_worker import VisionWorker
from edgeq.service.served_model import ServedModel
from edgeq.service.server import Server, reserve
from edgeq.service.settings import ServiceSettings

NAME = "inspector"
PIECES = ("There is ", "a minor wide crack ", "at the top left. ", "Seal it within a month.")
ANSWER = "".join(PIECES)
CONTEXT = 64
HOLD = "say something and then nothing"
USAGE = Usage(
    prompt_tokens=11,
    image_tokens=4,
    cached_tokens=5,
    answer_tokens=4,
    encoder_cache_hit=False,
    queue_seconds=0.25,
    first_token_seconds=1.5,
    seconds=4.5,
)
CHILDREN = Pool(2, [DECODER])
"""In which the services of all tests decode images; started by the first."""

WAIT_S = 20.0
"""How long a test waits for what must come; never for what may not."""


class SimulatedRuntime:
    """A runtime without a model: simulated. It says `ANSWER`, but to questions that were given an answer of their own.

    Attributes:
        asks: what was asked.
        looked_up: how often it was asked what it knows.
        cancelled: ids of streams, as they are cancelled; those that were not open any more are not among them.
    """

    def __init__(self) -> None:
        self.asks: list[GenerationRequest] = []
        self.looked_up = 0
        self.cancelled: queue.Queue[str] = queue.Queue()
        self.alive = True
        self.closed: list[bool] = []
        self._answers: dict[str, Done | EdgeqError] = {}
        self._refusals: dict[str, EdgeqError] = {}
        self._open: dict[str, Stream] = {}
        self._lock = threading.Lock()

    def answers(self, question: str, answer: Done | EdgeqError) -> None:
        """What a question ends with, after one piece."""
        self._answers[question] = answer

    def refuses(self, question: str, error: EdgeqError) -> None:
        """What is raised for a question."""
        self._refusals[question] = error

    def submit(self, ask: GenerationRequest, deadline_s: float | None = None) -> Stream:
        assert deadline_s is not None
        # as the real one does with files that it sees for the first time
        ask = replace(ask, images=tuple(opened(image) for image in ask.images))
        question = "\n".join(ask.turns[-1].texts)
        if question in self._refusals:
            raise self._refusals[question]
        with self._lock:
            if self.closed:
                raise ClosedError
            self.asks.append(ask)
            stream = Stream(f"r{len(self.asks)}", self._cancel)
            self._open[stream.id] = stream
        answer = None if question.startswith(HOLD) else self._answers.get(question, said(ANSWER))
        if isinstance(answer, Done) and answer.text == ANSWER:
            for piece in PIECES:
                stream.put(Token(piece))
        elif not (isinstance(answer, EdgeqError) and question.startswith("nothing")):
            stream.put(Token("One piece"))
        if answer is not None:
            self.end(stream.id, Failed(answer) if isinstance(answer, EdgeqError) else answer)
        return stream

    def submit_known(self, ask: GenerationRequest, deadline_s: float | None = None) -> Stream | None:
        """It remembers nothing."""
        assert ask.turns
        assert deadline_s is not None
        with self._lock:
            self.looked_up += 1
        return None

    def says(self, text: str) -> None:
        """Another piece for everybody who waits for one."""
        with self._lock:
            streams = list(self._open.values())
        for stream in streams:
            stream.put(Token(text))

    def snapshot(self) -> Snapshot:
        with self._lock:
            active = len(self._open)
        return replace(EMPTY, active=active, submitted=len(self.asks), kv_bytes=1000, kv_used_bytes=30, longest=16)

    def close(self, drain: bool = True) -> None:
        with self._lock:
            self.closed.append(drain)
            left = list(self._open)
        for name in left:
            self.end(name, said("", reason="cancelled"))

    def _cancel(self, name: str) -> None:
        if self.end(name, said("", reason="cancelled")):
            self.cancelled.put(name)

    def end(self, name: str, event: Done | Failed) -> bool:
        with self._lock:
            stream = self._open.pop(name, None)
        if stream is not None:
            stream.put(event)
        return stream is not None


def opened(image: Image.Image | EncodedImage) -> Image.Image:
    """An image of a request in mode RGB."""
    return image.decoded() if isinstance(image, EncodedImage) else image


def said(text: str, reason: Any = "stop", usage: Usage = USAGE) -> Done:
    """The end of an answer."""
    return Done(reason, usage, text, (7, 2))


_CACHE = CacheFigures(entries=1, bytes=200, hits=3, misses=4, evicted=0)
EMPTY = Snapshot(
    slots=4,
    active=0,
    queued=0,
    held=False,
    submitted=0,
    ended={"stop": 2, "busy": 1},
    prompt_tokens=0,
    cached_tokens=0,
    answer_tokens=0,
    steps=0,
    first_tokens=0,
    first_token_seconds=0.0,
    decode_tokens=0,
    decode_seconds=0.0,
    kv_bytes=0,
    kv_used_bytes=0,
    kv_reserved_bytes=0,
    context=CONTEXT,
    longest=0,
    reserved_bytes=0,
    limit_bytes=0,
    features=_CACHE,
    prefixes=_CACHE,
    memory_free_bytes=0,
)


class BrightnessEngine:
    """An engine without a network: simulated. Its logits are the mean of each channel."""

    inputs: tuple[str, ...] = ("pixels",)
    outputs: tuple[str, ...] = ("logits",)

    def run(self, feeds: Any, outputs: Any = None) -> dict[str, Any]:  # noqa: ARG002
        return {"logits": feeds["pixels"].mean(axis=(2, 3))}


def talking(runtime: SimulatedRuntime, most_images: int | None = None) -> ServedModel:
    """A vision-language bundle that was opened."""
    return _served("vision-language", (), talk=runtime, context=CONTEXT, most_images=most_images)


def classifying(labels: tuple[str, ...] = ("red", "green", "blue"), engine: Engine | None = None) -> ServedModel:
    """A classifier's bundle that was opened; an encoder's without labels."""
    preprocess = Preprocess(2, 2, resize=(2, 2), resample=0, center_crop=False, scale=1.0)
    seeing = VisionWorker(VisionModel(engine or BrightnessEngine(), "logits", preprocess), queue=2)
    return _served("classifier", labels, seeing=seeing)


def _served(kind: Any, labels: tuple[str, ...], **halves: Any) -> ServedModel:
    return ServedModel(
        **{"talk": None, "seeing": None, "context": None, "most_images": None, **halves},
        name=NAME,
        manifest=Manifest(kind=kind, made_by="a test", labels=labels, files=()),
        digest="ab" * 32,
        created=1_700_000_000,
        backend="simulated",
        canaries=None,
        phrases=DEFAULT_PHRASES,
        reader=reader_of(DEFAULT_PHRASES),
    )


@dataclass(frozen=True)
class Running:
    """A service that runs in a thread.

    Attributes:
        url: without a path.
        http: a client for it.
        server: it.
        thread: that it runs in.
    """

    url: str
    http: httpx2.Client
    service: Service
    server: Server
    thread: threading.Thread

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def openai(self, key: str = "unused") -> openai.OpenAI:
        """The official client; it does not try again by itself."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=WAIT_S)

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)


@contextmanager
def running(
    served: ServedModel,
    *,
    token: str | Sequence[str] | None = None,
    fetcher: Fetcher | None = None,
    notifier: Notifier | None = None,
    reload: Callable[[], None] | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """Run a service until the block ends."""
    chosen = ServiceSettings(port=0, **settings)
    service = make_service(served, chosen, token, fetcher=fetcher, children=CHILDREN)
    ready = threading.Event()
    server = Server(service, chosen, reserve("127.0.0.1", 0), notifier, lambda _url: ready.set(), reload=reload)
    url = server.address
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert ready.wait(WAIT_S)
    with httpx2.Client(base_url=url, timeout=WAIT_S, headers={"Authorization": f"Bearer {token}"}) as http:
        try:
            yield Running(url, http, service, server, thread)
        finally:
            http.close()
            server.stop()
            server.stop()
            thread.join(WAIT_S)
            assert not thread.is_alive()


def picture(colour: tuple[int, int, int] = (200, 10, 10), side: int = 8, kind: str = "PNG") -> bytes:
    """An encoded picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, kind)
    return file.getvalue()


def data_uri(data: bytes | None = None, media: str = "image/png") -> str:
    """A picture as a request has it."""
    return f"data:{media};base64,{base64.b64encode(picture() if data is None else data).decode()}"


def text_part(text: str) -> dict[str, Any]:
    """A text in a message."""
    return {"type": "text", "text": text}


def image_part(url: str) -> dict[str, Any]:
    """An image in a message."""
    return {"type": "image_url", "image_url": {"url": url}}


def question(text: str = "what is it?", image: str | None = None) -> list[Any]:
    """The messages of a question about a picture."""
    return [{"role": "user", "content": [image_part(data_uri() if image is None else image), text_part(text)]}]


def chat(text: str = "what is it?", image: str | None = None, **more: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": NAME, "messages": question(text, image), **more}


def post_bytes(path: str, body: Any, *, headers: dict[str, str] | None = None) -> bytes:
    """A request as it goes over the wire, whole."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(content))}
    head = "".join(f"{key}: {value}\r\n" for key, value in {**lines, **(headers or {})}.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content


def received(bare: socket.socket, wanted: bytes) -> bytes:
    """What comes until `wanted` is in it, or nothing comes any more."""
    found = b""
    while wanted not in found and (piece := bare.recv(4096)):
        found += piece
    return found


def noise(side: int, seed: int = 0) -> bytes:
    """A PNG that hardly compresses: three bytes for each pixel."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for what must come about, looking again and again."""
    gate = threading.Event()
    for _ in range(int(WAIT_S * 100)):
        if holds():
            return
        gate.wait(0.01)
    raise AssertionError("it did not come about")
