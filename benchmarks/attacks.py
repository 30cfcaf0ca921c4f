"""`edgeq serve` under attack: for each attack its peak memory, how long /health/live was silent, and who was answered.

The service is a process of its own with `--memory 3` and 1,024 descriptors, and so is who asks for its health every 20
ms, each time on a new connection. Behind each attack a plain question is asked.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.attack_inputs import (
    CHAT,
    ENDLESS,
    IMAGES,
    JSON_BODIES,
    Endless,
    data_uri,
    json_request,
    long_conversation,
    request_head,
)
from benchmarks.service_process import Serving, serving

__all__ = ["Outcome", "main"]

MEMORY_GB = 3.0
DESCRIPTORS = 1024
TIMEOUT_S = 60.0
MOST_SENT = 100 << 20
EVERY_S = 0.02
_AT_ONCE = 4

Attack = Callable[[Serving], dict[int, int]]


@dataclass(frozen=True)
class Outcome:
    """What came of an attack.

    Attributes:
        attack: its name.
        peak: bytes of memory that the service held at most, while it lasted.
        stall: seconds, the longest that /health/live took; None where it did not answer at all.
        seconds: that the attack lasted.
        statuses: of its requests, 0 for those that were cut off or not answered within a minute.
        honest: status of a plain question behind it; 0 where it was not answered.
    """

    attack: str
    peak: int
    stall: float | None
    seconds: float
    statuses: Mapping[int, int]
    honest: int


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="a vision-language bundle, such as that of make demo")
    parser.add_argument("--only", nargs="+", help="attacks whose names have one of these in them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    chosen = {
        name: attack for name, attack in attacks().items() if not given.only or any(word in name for word in given.only)
    }
    outcomes = []
    for outcome in measured(given.bundle, chosen):
        outcomes.append(outcome)
        print(json.dumps(asdict(outcome)), flush=True)
    if not given.json:
        print(table(outcomes))


def attacks() -> dict[str, Attack]:
    """By name."""
    found: dict[str, Attack] = {"none": _nothing}
    for name in ("trailers", "one trailer", "chunk extension"):
        found[f"100 MiB: {name}"] = partial(_endless, ENDLESS[name])
    for name in ("a million numbers for messages", "217,000 keys", "as many items as are let through"):
        found[f"4 x {name}"] = partial(_together, partial(_body, name))
    found["4 x 5.7 million characters"] = _conversations
    for name in (
        *("a strip of 1 x 50 million", "50 million pixels of RGBA, 16 bit", "1,000 scans"),
        *("90 scans of 16 million pixels", "36 million pixels of run lengths"),
    ):
        media, make = IMAGES[name]
        found[f"4 x {name}"] = partial(_together, partial(_asked, make, media))
    found["4 silent uploads of 25 MB"] = partial(_silent, 4, "25000000")
    found["300 silent uploads of 500 bytes"] = partial(_silent, 300, "500")
    found["1,100 idle connections"] = _idle
    return found


def measured(bundle: Path, chosen: Mapping[str, Attack]) -> Iterator[Outcome]:
    """One attack after another; behind one that the service does not get over, another service."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS}))"
    left = list(chosen.items())
    while left:
        with serving(bundle, {"memory_gb": MEMORY_GB, "page": False}, before=limit) as service:
            well = True
            while left and well:
                outcome = under(service, *left.pop(0))
                well = outcome.honest == 200 and outcome.stall is not None
                yield outcome
            os.kill(service.pid, signal.SIGKILL)  # it might not end by itself


def under(service: Serving, name: str, attack: Attack) -> Outcome:
    """One attack."""
    _plain(service)
    Path(f"/proc/{service.pid}/clear_refs").write_text("5")  # the peak begins here
    near, far = multiprocessing.Pipe()
    watching = multiprocessing.get_context("spawn").Process(target=_watch_health, args=(service.url, far))
    watching.start()
    near.recv()
    start = time.monotonic()
    statuses = attack(service)
    seconds = time.monotonic() - start
    honest = _plain(service)
    near.send("enough")
    stall = near.recv() if near.poll(TIMEOUT_S + 5) else None
    watching.kill()
    return Outcome(name, _peak(service.pid), stall, seconds, statuses, honest)


def table(outcomes: list[Outcome]) -> str:
    """The figures as Markdown."""
    head = ("attack", "peak, MB", "longest silence of health, s", "lasted, s", "its answers", "a question behind it")
    rows = [
        (
            one.attack,
            f"{one.peak / 1e6:,.0f}",
            "no answer" if one.stall is None else f"{one.stall:.2f}",
            f"{one.seconds:.1f}",
            ", ".join(f"{count} x {status or 'cut off'}" for status, count in sorted(one.statuses.items())),
            str(one.honest or "no answer"),
        )
        for one in outcomes
    ]
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _watch_health(url: str, far: Connection) -> None:
    """Ask again and again, and tell the longest time."""
    longest, silent = 0.0, False
    far.send("ready")
    while not far.poll(EVERY_S):
        start = time.monotonic()
        status = _answer(url, b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        if status != 200:
            silent = True
            break
        longest = max(longest, time.monotonic() - start)
    far.send(None if silent else longest)


def _answer(url: str, request: bytes) -> int:
    """The status that a request is answered with; 0 for none."""
    with suppress(OSError, ValueError, IndexError), _connect(url) as bare:
        with suppress(ConnectionError):
            bare.sendall(request)
        return int(bare.recv(4096).split(b" ", 2)[1])
    return 0


def _connect(url: str) -> socket.socket:
    where = urlsplit(url)
    return socket.create_connection((where.hostname or "", where.port or 0), timeout=TIMEOUT_S)


def _plain(service: Serving) -> int:
    body = {"model": service.model, "messages": [{"role": "user", "content": "what is it?"}], "max_tokens": 4}
    return _answer(service.url, json_request(json.dumps(body).encode()))


def _body(name: str) -> bytes:
    return json_request(JSON_BODIES[name]())


def _asked(make: Callable[[], bytes], media: str) -> bytes:
    return json_request(json.dumps({"image": data_uri(make(), media)}).encode(), "/v1/inspect")


def _nothing(_service: Serving) -> dict[int, int]:
    time.sleep(3)
    return {}


def _counted(statuses: list[int]) -> dict[int, int]:
    return {status: statuses.count(status) for status in sorted(set(statuses))}


def _together(make: Callable[[], bytes], service: Serving) -> dict[int, int]:
    request = make()
    with ThreadPoolExecutor(_AT_ONCE) as clients:
        return _counted(list(clients.map(lambda _: _answer(service.url, request), range(_AT_ONCE))))


def _conversations(service: Serving) -> dict[int, int]:
    return _together(lambda: json_request(long_conversation(service.model)), service)


def _endless(endless: Endless, service: Serving) -> dict[int, int]:
    with _connect(service.url) as bare:
        with suppress(ConnectionError):
            bare.sendall(endless.begun)
            for _ in range(MOST_SENT // len(endless.piece)):
                bare.sendall(endless.piece)
            bare.sendall(b"\r\n\r\n")
        with suppress(OSError, IndexError):
            return {int(bare.recv(4096).split(b" ", 2)[1]): 1}
    return {0: 1}


def _silent(count: int, length: str, service: Serving) -> dict[int, int]:
    """Uploads that announce and send nothing; the answers are those of ten plain questions meanwhile."""
    lines = [_connect(service.url) for _ in range(count)]
    for line in lines:
        with suppress(ConnectionError):
            line.sendall(request_head(CHAT, Content_Length=length))
    found = [_plain(service) for _ in range(10)]
    for line in lines:
        line.close()
    return _counted(found)


def _idle(service: Serving) -> dict[int, int]:
    """Connections that say nothing; the answers are those of ten plain questions meanwhile."""
    lines: list[socket.socket] = []
    with suppress(OSError):
        lines.extend(_connect(service.url) for _ in range(1100))
    time.sleep(3)
    found = [_plain(service) for _ in range(10)]
    for line in lines:
        line.close()
    time.sleep(1)
    return _counted(found)


def _peak(pid: int) -> int:
    """Bytes of memory that a process held at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
