"""The commands of docs/page.md serve what the page says, and its example of `usage` is what is answered."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
from running import WAIT_S, SimulatedRuntime, chat, running, talking

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "page.md").read_text(encoding="utf-8")
CLASSIFIER = ROOT / "tests" / "golden" / "bundles-0.1.0" / "classifier"
TOKEN = "0123456789abcdef-secret"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@contextmanager
def served(command: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A command of the page, on a free port."""
    program, *arguments = shlex.split(command)
    assert program == "edgeq"
    full = [sys.executable, "-m", "edgeq", *arguments, "--port", "0", "--json"]
    with subprocess.Popen(full, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:
        try:
            yield service
        finally:
            service.terminate()


def address(service: subprocess.Popen[str]) -> str:
    """Where it answers, once it does."""
    assert service.stdout is not None
    told = "".join(iter(service.stdout.readline, "}\n")) + "}"
    return str(json.loads(told)["address"]).replace("0.0.0.0", "127.0.0.1")


def test_each_command_serves_what_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "bundle").symlink_to(CLASSIFIER, target_is_directory=True)
    (tmp_path / "token").write_text(TOKEN)
    with ExitStack() as stack:
        services = [stack.enter_context(served(block.strip(), tmp_path)) for block in blocks("sh")]
        usual, guarded, without = [
            stack.enter_context(httpx2.Client(base_url=address(service), timeout=WAIT_S)) for service in services
        ]
        assert [usual.get(path).status_code for path in ("/", "/docs", "/openapi.json")] == [200, 200, 200]
        assert [guarded.get(path).status_code for path in ("/", "/docs", "/openapi.json")] == [200, 200, 401]
        assert guarded.get("/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert [without.get(path).status_code for path in ("/", "/docs", "/openapi.json")] == [404, 404, 200]


def test_the_times_of_an_answer() -> None:
    (text,) = blocks("json")
    told = json.loads(text)
    with running(talking(SimulatedRuntime())) as service:
        usage = service.http.post("/v1/chat/completions", json=chat()).json()["usage"]
    assert {key: usage[key] for key in told} == told


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\(([\w-]+\.png)\)", PAGE))))
def test_pictures_are_small(name: str) -> None:
    assert (ROOT / "docs" / name).stat().st_size < 150_000
