"""`edgeq serve` and the script beside it, each as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.process import ROOT
from benchmarks.service_clients import Case, Heard

__all__ = ["Script", "Serving", "script", "serving"]

_EDGEQ = "import sys; from edgeq.cli import main; sys.argv[0] = 'edgeq'; main()"


@dataclass(frozen=True)
class Serving:
    """A service that runs.

    Attributes:
        url, model: of it.
        pid: its process.
        log: its log, JSON lines.
    """

    url: str
    model: str
    pid: int
    log: Path

    @property
    def resident(self) -> int:
        """Bytes of memory that it holds and that belong to no file."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

    def metric(self, name: str, **labels: str) -> float:
        """One metric now, or the sum over the labels that are not given."""
        families = text_string_to_metric_families(httpx2.get(f"{self.url}/metrics", timeout=60).text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@contextmanager
def serving(bundle: Path, settings: Mapping[str, Any], *, before: str = "") -> Iterator[Serving]:
    """Serve a bundle with these settings until the block ends, and then with SIGTERM.

    Args:
        bundle: its directory.
        settings: of the service.
        before: Python that its process runs first.
    """
    with tempfile.TemporaryDirectory() as scratch:
        config, log = Path(scratch) / "edgeq.conf", Path(scratch) / "log"
        config.write_text(yaml.safe_dump({"version": "edgeq.service/1", "port": 0, **settings}))
        command = [sys.executable, "-c", f"{before}\n{_EDGEQ}", "serve", str(bundle), "--config", str(config), "--json"]
        with (
            log.open("w") as written,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=written, text=True, cwd=ROOT) as process,
        ):
            try:
                said = json.loads(_first_object(process, log))
                yield Serving(said["address"], said["model"], process.pid, log)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def _first_object(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    lines = ""
    while not lines.endswith("}\n"):
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the service did not start:\n{log.read_text()}")
        lines += line
    return lines


class Script:
    """`generate` of transformers on the same bundle, one request at a time."""

    def __init__(self, process: subprocess.Popen[str], scratch: Path) -> None:
        self._process = process
        self._image = scratch / "image.png"

    def ask(self, case: Case) -> Heard:
        """Ask once, and wait."""
        self._image.write_bytes(case.image)
        asked = {"image": str(self._image), "question": case.question, "tokens": case.tokens}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        return Heard(200, told["text"], told["tokens"], told["first"], told["total"])


@contextmanager
def script(bundle: Path, threads: int) -> Iterator[Script]:
    """The script, loaded, until the block ends."""
    command = [sys.executable, "-m", "benchmarks.peers.generate_run", str(bundle), str(threads)]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryDirectory() as scratch,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process,
    ):
        assert process.stdout is not None
        told = json.loads(process.stdout.readline() or "{}")
        if not told.get("ready"):
            raise SystemExit(told.get("because", "the script did not start"))
        yield Script(process, Path(scratch))
        assert process.stdin is not None
        process.stdin.close()
