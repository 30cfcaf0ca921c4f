"""A simulated hub: as much of Hugging Face's HTTP API as a push needs, on a real port; it keeps what it was sent."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["TOKEN", "SimulatedHub", "simulated_hub"]

TOKEN = "hf_simulated"


@dataclass
class SimulatedHub:
    """What it holds.

    Attributes:
        url: of the hub.
        repositories: name -> private.
        files: of each repository.
        asked: method and path of every request.
        tokens: that were sent.
    """

    url: str = ""
    repositories: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    def answer(self, method: str, path: str, data: bytes) -> tuple[int, Any]:
        """Status and JSON."""
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            told = json.loads(data)
            name = "/".join(part for part in (told.get("organization"), told["name"]) if part)
            private = told.get("private", told.get("visibility") == "private")  # before huggingface_hub 2, and since
            self.repositories[name], self.files[name] = private, {}
            return 200, {"url": f"{self.url}/{name}"}
        name, _, rest = path.removeprefix("/api/models/").partition("/preupload/")
        if rest:
            files = [{"path": each["path"]} for each in json.loads(data)["files"]]
            return 200, {"files": [{**each, "uploadMode": "regular", "shouldIgnore": False} for each in files]}
        name, _, rest = name.partition("/commit/")
        if rest:
            self._commit(name, data)
            return 200, {"commitUrl": f"{self.url}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40}
        if method == "GET" and name in self.repositories:
            siblings = [{"rfilename": each} for each in self.files[name]]
            return 200, {"id": name, "private": self.repositories[name], "siblings": siblings, "tags": []}
        return 404, {"error": "Repository not found"}

    def _commit(self, name: str, data: bytes) -> None:
        """Lines of JSON: what comes and what goes."""
        for line in map(json.loads, data.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del self.files[name][value["path"]]


@contextmanager
def simulated_hub() -> Iterator[SimulatedHub]:
    """One that answers until it is left; it wants `TOKEN`."""
    hub = SimulatedHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply()

        def do_POST(self) -> None:
            self._reply()

        def _reply(self) -> None:
            data = self._data()
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            token = self.headers.get("authorization", "").removeprefix("Bearer ")
            hub.tokens.add(token)
            status, content = hub.answer(self.command, path, data) if token == TOKEN else (401, {"error": "no token"})
            body = json.dumps(content).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _data(self) -> bytes:
            if self.headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("content-length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
