"""The real service as a child of a supervisor that goes by jetson/edgeq.service, as systemd would."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from running import chat

from edgeq.pipeline.vlm import PreparedVlm

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "jetson/edgeq.service"
FAULTY = Path(__file__).with_name("faulty_edgeq.py")
WAIT_S = 90.0
READY, STOPPING, WATCHDOG = b"READY=1", b"STOPPING=1", b"WATCHDOG=1"


def unit(key: str) -> str:
    """A setting of the unit; empty where it is not there."""
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return next((line.partition("=")[2] for line in lines if line.startswith(f"{key}=")), "")


def starts_again(status: int) -> bool:
    """As systemd.service(5) has it for `Restart=on-failure`; a negative status is the signal that ended the process."""
    assert unit("Restart") == "on-failure"
    clean = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
    success = {0, *map(int, unit("SuccessExitStatus").split()), *(-int(one) for one in clean)}
    return status not in success and status not in {int(one) for one in unit("RestartPreventExitStatus").split()}


class Supervisor:
    """Starts `edgeq` again until it ends so that it is not; `RestartSec` is not waited for.

    Args:
        starter: a process of faulty_edgeq.py.
        directory: where faults are asked for, and logs are.
        arguments: of `edgeq`.

    Attributes:
        statuses: that it has ended with.
        told: what systemd is told, in order.
    """

    def __init__(self, starter: subprocess.Popen[str], directory: Path, arguments: list[str]) -> None:
        self._starter, self._directory, self._arguments = starter, directory, arguments
        self._stopped = False
        self._pids: list[int] = []
        self.statuses: list[int] = []
        self.told: list[bytes] = []
        self._changed = threading.Condition()
        self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._systemd.bind(str(directory / "notify"))
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._listen, self._run)]
        for thread in self._threads:
            thread.start()

    def wait(self, what: Any) -> None:
        """Until something is so."""
        with self._changed:
            assert self._changed.wait_for(what, WAIT_S), (self.statuses, self.told[-3:], self.log())

    def ready(self, times: int) -> None:
        """Until it has answered requests for so many times, without having ended as often."""
        self.wait(lambda: self.told.count(READY) >= times or len(self.statuses) >= times)
        assert self.told.count(READY) == times, self.log()

    def log(self) -> str:
        """Of all starts."""
        return "".join(path.read_text(encoding="utf-8") for path in sorted(self._directory.glob("*.log")))

    @property
    def starts(self) -> int:
        return len(self._pids)

    def stop(self) -> None:
        """As `systemctl stop`."""
        with self._changed:
            self._stopped = True
            if len(self.statuses) < len(self._pids):
                os.kill(self._pids[-1], signal.SIGTERM)

    def close(self) -> None:
        """Nothing is left behind."""
        self.stop()
        self._threads[1].join(WAIT_S)
        with self._changed:
            if len(self.statuses) < len(self._pids):
                os.kill(self._pids[-1], signal.SIGKILL)
        self._systemd.shutdown(socket.SHUT_RD)
        self._threads[0].join(WAIT_S)
        self._systemd.close()

    def _listen(self) -> None:
        while data := self._systemd.recv(200):
            with self._changed:
                self.told.append(data)
                self._changed.notify_all()

    def _run(self) -> None:
        assert self._starter.stdin is not None
        assert self._starter.stdout is not None
        environment = {"NOTIFY_SOCKET": str(self._directory / "notify"), "WATCHDOG_USEC": "200000"}
        while True:
            log = str(self._directory / f"{len(self._pids)}.log")
            asked = {"arguments": self._arguments, "environment": environment, "log": log}
            self._starter.stdin.write(json.dumps({**asked, "directory": str(self._directory)}) + "\n")
            self._starter.stdin.flush()
            pid = int(self._starter.stdout.readline())
            with self._changed:
                self._pids.append(pid)
            status = int(self._starter.stdout.readline())
            with self._changed:
                self.statuses.append(status)
                self._changed.notify_all()
                if self._stopped or not starts_again(status):
                    return


@pytest.fixture(scope="module")
def starter() -> Iterator[subprocess.Popen[str]]:
    """Forks `edgeq` off; what takes long to import is imported once."""
    command = [sys.executable, str(FAULTY)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@contextmanager
def supervised(starter: subprocess.Popen[str], directory: Path, *arguments: str | Path) -> Iterator[Supervisor]:
    """A supervisor at work."""
    supervisor = Supervisor(starter, directory, [*map(str, arguments)])
    try:
        yield supervisor
    finally:
        supervisor.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_how_systemd_is_told_to_act() -> None:
    """By number: what a restart cannot mend, what it may, and every end that is not edgeq's own."""
    assert {status: starts_again(status) for status in (0, 143, 78, 79)} == dict.fromkeys((0, 143, 78, 79), False)
    others = (1, 2, 70, 75, 134, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGKILL)
    assert {status: starts_again(status) for status in others} == dict.fromkeys(others, True)


def test_a_service_is_started_again_until_it_answers_and_not_once_it_is_told_to_stop(
    starter: subprocess.Popen[str], prepared_vlm: PreparedVlm, tmp_path: Path
) -> None:
    """A GPU that is lost, with one that is answered and two that wait; a library that calls exit(1); and SIGTERM."""
    (tmp_path / "conf").write_text("version: edgeq.service/1\nmemory_gb: 2\nreserve_mib: 64\nsequences: 1\n")
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    options = ("--config", tmp_path / "conf", "--threads", "1", "--port", str(port), "--no-canaries")
    with supervised(starter, tmp_path, "serve", prepared_vlm.bundle, *options) as supervisor:
        answers: list[httpx2.Response] = []

        def ask() -> None:
            answers.append(httpx2.post(url, json=chat(), timeout=WAIT_S))

        supervisor.ready(1)
        (tmp_path / "lose").touch()
        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(WAIT_S)
        codes = [(answer.status_code, answer.json()["error"]["code"]) for answer in answers]
        assert len(codes) == 3
        assert (503, "restarting") in codes
        assert set(codes) <= {(503, "restarting"), (503, "draining")}
        supervisor.ready(2)
        (tmp_path / "leave").touch()
        with pytest.raises(httpx2.HTTPError):
            httpx2.post(url, json=chat(), timeout=WAIT_S)
        supervisor.ready(3)
        assert httpx2.post(url, json=chat(max_tokens=2), timeout=WAIT_S).status_code == 200
        os.kill(supervisor._pids[-1], signal.SIGTERM)
        supervisor.wait(lambda: len(supervisor.statuses) == 3)
        assert supervisor.statuses == [70, 1, 0]
        assert supervisor.starts == 3
    assert (tmp_path / "lost").exists()
    assert not (tmp_path / "called").exists(), "the accelerator was called once more"
    first, stopping = supervisor.told.index(READY), supervisor.told.index(STOPPING)
    second = supervisor.told.index(READY, first + 1)
    assert first < stopping < second
    assert WATCHDOG not in supervisor.told[stopping:second]
    assert "the runtime has stopped" in supervisor.log()


def test_what_a_restart_cannot_mend_is_not_tried_again(starter: subprocess.Popen[str], tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("version: edgeq.service/1\nwings: 2\n")
    with supervised(starter, tmp_path, "serve", "--config", tmp_path / "conf") as supervisor:
        supervisor.wait(lambda: supervisor.statuses)
        assert (supervisor.statuses, supervisor.starts) == ([78], 1)
    assert "wings" in supervisor.log()
