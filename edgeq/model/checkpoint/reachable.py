"""Whether the Hugging Face hub can be reached: known in four seconds, where its client tries for half a minute."""

from __future__ import annotations

import os
import queue
import socket
import threading
import urllib.request
from typing import Final
from urllib.parse import urlsplit

from edgeq.errors import first_line

__all__ = ["why_unreachable"]

_ENDPOINT: Final = "https://huggingface.co"
_PATIENCE_S: Final = 4.0
_PORTS: Final = {"http": 80, "https": 443}


def why_unreachable(patience_s: float = _PATIENCE_S) -> str:
    """Why no connection to the hub, or to the proxy before it, is made; empty where one is.

    A name server that does not answer would hold the caller up for longer, so it is asked from a thread.

    Args:
        patience_s: the longest wait, in seconds.
    """
    host, port = _first_host()
    answer: queue.SimpleQueue[str] = queue.SimpleQueue()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=patience_s).close()
        except (OSError, UnicodeError) as error:
            answer.put(f"{host}: {first_line(error)}")
        else:
            answer.put("")

    threading.Thread(target=connect, name="edgeq-hub", daemon=True).start()
    try:
        return answer.get(timeout=patience_s)
    except queue.Empty:
        return f"{host} does not answer within {patience_s:g} s"


def _first_host() -> tuple[str, int]:
    """The host that a request to the hub goes to first, and its port."""
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or _ENDPOINT)
    host = hub.hostname or ""
    proxy = urllib.request.getproxies().get(hub.scheme)
    first = hub if proxy is None or urllib.request.proxy_bypass(host) else urlsplit(_with_scheme(proxy))
    return first.hostname or host, first.port or _PORTS.get(first.scheme, 443)


def _with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"
