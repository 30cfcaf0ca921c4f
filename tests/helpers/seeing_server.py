"""A simulated server of OpenAI's chat completions on a real port: what it says of a picture is a function of a test."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Sees = Callable[[Image.Image, str], str]

HANGS_UP = 0


@dataclass
class SeeingServer:
    """What runs.

    Attributes:
        url: up to /v1.
        asked: bodies of the requests for answers, in their order.
        refuse: called with each body; a status and headers refuse it, the status `HANGS_UP` closes the connection, and
            None answers it.
        ended: why answers end.
    """

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    refuse: Callable[[dict[str, Any]], tuple[int, dict[str, str]] | None] = lambda _body: None
    ended: str = "stop"


@contextmanager
def seeing_server(sees: Sees, models: tuple[str, ...] | None = ("eyes",)) -> Iterator[SeeingServer]:
    """Run one until the block ends; `models` are listed, and None fails to list any."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            listed = {"object": "list", "data": [_model(name) for name in models or ()]}
            self._send(500 if models is None else 200, listed)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.asked.append(body)
            refused = found.refuse(body)
            if refused is not None and refused[0] == HANGS_UP:
                self.close_connection = True
                return
            if refused is not None:
                self._send(refused[0], {"error": {"message": "refused by the test"}}, refused[1])
                return
            image, text = body["messages"][0]["content"]
            data = base64.b64decode(image["image_url"]["url"].partition(",")[2])
            answer = sees(Image.open(io.BytesIO(data)).convert("RGB"), text["text"])
            self._send(200, _completion(answer, found.ended, told=bool(body.get("logprobs"))))

        def _send(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nothing is logged."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = SeeingServer(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "a test"}


def _completion(answer: str, ended: str, *, told: bool) -> dict[str, Any]:
    tokens: list[dict[str, Any]] = [
        {"token": word, "logprob": -0.25, "bytes": None, "top_logprobs": []} for word in answer.split()
    ]
    choice = {
        "index": 0,
        "finish_reason": ended,
        "message": {"role": "assistant", "content": answer},
        "logprobs": {"content": tokens} if told else None,
    }
    usage = {"prompt_tokens": 10, "completion_tokens": len(tokens), "total_tokens": 10 + len(tokens)}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "eyes",
        "choices": [choice],
        "usage": usage,
    }
