"""A model on a hub: a real huggingface_hub client against a server in this process that counts what it hands out."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from vlm import write_vlm

from edgeq.families.modules import read_vlm
from edgeq.model.checkpoint.hub import is_hub_id

FIRST_RANGE = 100_001
"""Bytes that huggingface_hub asks for to read a header: 0 to 100,000."""

CODE = """
import sys
from edgeq.errors import ModelError
from edgeq.families.modules import read_vlm
try:
    model = read_vlm(sys.argv[1])
    print(model.name, model.parameters, sum(part.bytes for part in model.components))
except ModelError as error:
    print(error)
"""


class Hub(ThreadingHTTPServer):
    """Serves a directory as the model `org/tiny`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.directory = directory
        self.sent: dict[str, int] = {}


class Answer(BaseHTTPRequestHandler):
    """Files and ranges of files, with the headers that the hub puts on them."""

    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    def _answer(self, body: bool) -> None:
        start, _, name = self.path.partition("?")[0].partition("/resolve/main/")
        path = self.server.directory / name
        if start != "/org/tiny" or not name or not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if start == "/org/tiny" else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, asked = path.read_bytes(), self.headers.get("Range")
        if asked is not None:
            first, last = asked.removeprefix("bytes=").split("-")
            part = data[int(first) : int(last) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
            data = part
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(path.read_bytes()).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.server.sent[name] = self.server.sent.get(name, 0) + len(data)
            self.wfile.write(data)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = Hub(write_vlm(tmp_path / "tiny", "llava", shard="150KB"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(hub: Hub, model: str, home: Path) -> str:
    """What edgeq says about a model on the hub, in a process of its own."""
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "PATH": "/usr/bin:/bin",
    }
    command = [sys.executable, "-c", CODE, model]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_headers_come_and_weights_stay(hub: Hub, tmp_path: Path) -> None:
    here = read_vlm(hub.directory)
    said = ask(hub, "org/tiny", tmp_path / "home")
    assert said.split() == ["org/tiny", f"{here.parameters}", f"{sum(part.bytes for part in here.components)}"]
    shards = {path.name: path.stat().st_size for path in hub.directory.glob("*.safetensors")}
    assert len(shards) > 1
    assert {name: hub.sent[name] for name in shards} == dict.fromkeys(shards, FIRST_RANGE), "and no more is asked for"
    assert all(size > FIRST_RANGE for size in shards.values())


def test_a_model_that_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    said = ask(hub, "org/nothing", tmp_path / "home")
    assert "org/nothing is no directory here and could not be read from Hugging Face" in said
    assert "misspelt" in said


def test_what_looks_like_an_id() -> None:
    assert is_hub_id("llava-hf/llava-1.5-7b-hf")
    assert not any(is_hub_id(name) for name in ("model", "./a/b", "/a/b", "a/b/c", Path("a/b")))
