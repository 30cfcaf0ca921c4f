"""`edgeq serve` as a process of its own, and everything that keeps it from starting."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from classifier_bundle import classifier_bundle
from command import Edgeq, assert_refused
from retrieval_bundle import indexed, retrieval_bundle

from edgeq.bundle.manifest import write_manifest
from edgeq.files import read_json_object
from edgeq.install.run import install
from edgeq.runtime.canary.canaries import CANARIES

HERE = ("--threads", "1", "--backend", "onnxruntime", "--port", "0")
WAIT_S = 60
TOKEN = "0123456789abcdef"


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the tiny classifier; not to be written to."""
    return classifier_bundle(tmp_path_factory)


@contextmanager
def served(*arguments: str | Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`edgeq serve ARGUMENTS --json` as soon as it answers, with what it said; it is killed at the end."""
    code = "import sys; from edgeq.cli import main; sys.argv[0] = 'edgeq'; main()"
    command = [sys.executable, "-c", code, "serve", *map(str, arguments), *HERE, "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment}) as process:
        try:
            assert process.stdout is not None
            lines = ""
            while not lines.endswith("}\n"):
                line = process.stdout.readline()
                assert line, process.stderr and process.stderr.read()
                lines += line
            yield process, json.loads(lines)
        finally:
            process.kill()


def test_killed_started_again_and_stopped(bundle: Path, tmp_path: Path) -> None:
    """An installed bundle, a token, systemd's socket; `kill -9` in the middle of a request leaves nothing to repair."""
    root = tmp_path / "root"
    install(bundle, root)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "conf").write_text(f"version: edgeq.service/1\nroot: {root}\ntoken_file: {tmp_path / 'token'}\n")
    with served("--config", tmp_path / "conf") as (process, said):
        address = httpx2.URL(said["address"])
        with socket.create_connection((address.host, address.port), WAIT_S) as half:
            half.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
            process.send_signal(signal.SIGKILL)
            assert process.wait(WAIT_S) == -signal.SIGKILL
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(WAIT_S)
        with served("--config", tmp_path / "conf", NOTIFY_SOCKET=str(tmp_path / "notify")) as (process, said):
            assert (said["model"], said["kind"], said["canaries"]) == ("classifier", "classifier", True)
            assert said["backend"].startswith("onnxruntime ")
            assert said["because"] == "it was asked for"
            headers = {"authorization": f"Bearer {TOKEN}"}
            models = httpx2.get(f"{said['address']}/v1/models", headers=headers, timeout=WAIT_S)
            assert models.json()["data"][0]["digest"] == said["digest"]
            assert httpx2.get(f"{said['address']}/v1/models", timeout=WAIT_S).status_code == 401
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
            assert process.stderr is not None
            lines = [json.loads(line) for line in process.stderr]
        events = [line["event"] for line in lines]
        assert events[:1] + events[-2:] == ["starting", "draining", "stopped"]
        (opened,) = (line for line in lines if line["event"] == "opened")
        assert (opened["backend"], opened["because"]) == (said["backend"], said["because"])
        told = [systemd.recv(200) for _ in range(5)]
    assert told[-2:] == [b"READY=1", b"STOPPING=1"]
    assert all(one.startswith(b"STATUS=") for one in told[:-2])


def test_a_catalog_is_searched(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    towers = retrieval_bundle(tmp_path_factory)
    catalog = indexed(towers, towers.parent / "images", tmp_path / "catalog")
    with served(towers, "--index", catalog) as (process, said):
        assert (said["model"], said["kind"], said["canaries"]) == ("towers", "retrieval", True)
        asked = {"query": "a photo of a cat", "k": 2}
        found = httpx2.post(f"{said['address']}/v1/search", json=asked, timeout=WAIT_S)
        assert len(found.json()["results"]) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
        assert process.stderr is not None
        lines = process.stderr.read()
    assert "photo of a cat" not in lines
    told = [json.loads(line) for line in lines.splitlines()]
    assert {line.get("doing") for line in told} >= {"opening the encoders", "opening the index"}


# ---- one clear error, and a status that says whether to try again


def test_an_index_for_a_classifier(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    done = edgeq("serve", bundle, *HERE, "--index", tmp_path)
    assert_refused(done, "--index is for the bundle of a text and image", status=78)


def test_nothing_watches_with_text_and_image_encoders(
    edgeq: Edgeq, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    done = edgeq("watch", retrieval_bundle(tmp_path_factory), tmp_path, "--once", "--threads", "1")
    assert done.status == 78
    assert "says nothing of an image" in done.err


def test_a_port_in_use(edgeq: Edgeq, bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = edgeq("serve", bundle, "--port", str(port))
    assert_refused(done, f"port {port} of 127.0.0.1 is in use", "ss -ltnp", status=75)


def test_a_token_that_is_missing(edgeq: Edgeq, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEQ_TOKEN", raising=False)
    done = edgeq("serve", bundle, *HERE, "--host", "0.0.0.0")
    assert_refused(done, "must bring a token", "--token-file", status=78)


def test_a_token_file_that_is_missing(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    done = edgeq("serve", bundle, *HERE, "--token-file", tmp_path / "no")
    assert_refused(done, "token file", "cannot be read", status=75)


def test_no_bundle(edgeq: Edgeq, tmp_path: Path) -> None:
    done = edgeq("serve", tmp_path, *HERE)
    assert done.status == 75
    assert f"error: {tmp_path} is neither a bundle nor a store" in done.err


def test_nothing_installed(edgeq: Edgeq, tmp_path: Path) -> None:
    (tmp_path / "conf").write_text(f"version: edgeq.service/1\nroot: {tmp_path / 'root'}\n")
    done = edgeq("serve", "--config", tmp_path / "conf", *HERE)
    assert done.status == 75
    assert "edgeq install" in done.err


def test_a_damaged_bundle(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "b")
    (damaged / "model.int8.ort.onnx").write_bytes(b"")
    done = edgeq("serve", damaged, *HERE)
    assert (done.status, done.out) == (78, "")
    assert "its length differs" in done.err
    assert "Traceback" not in done.err


def test_an_engine_that_was_not_built(edgeq: Edgeq, bundle: Path) -> None:
    done = edgeq("serve", bundle, "--backend", "tensorrt", "--port", "0")
    assert (done.status, done.out) == (70, "")
    assert "tensorrt" in done.err.lower()
    assert "Traceback" not in done.err


def test_canaries_that_fail_end_it_with_79(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    """Every canary gets the picture of another one."""
    other = shutil.copytree(bundle, tmp_path / "b")
    first, *_, last = sorted((other / CANARIES).glob("*.png"))
    for path in (other / CANARIES).glob("*.png"):
        path.write_bytes((last if path == first else first).read_bytes())
    write_manifest(other, labels=tuple(read_json_object(other / "manifest.json")["labels"]))
    done = edgeq("serve", other, *HERE)
    assert (done.status, done.out) == (79, "")
    assert "canaries fail" in done.err


@pytest.mark.parametrize(
    ("text", "names"),
    [("version: edgeq.service/1\nport: 1\nwings: 2", "wings"), ("version: edgeq.service/9", "version")],
)
def test_settings_that_are_none(edgeq: Edgeq, bundle: Path, tmp_path: Path, text: str, names: str) -> None:
    (tmp_path / "conf").write_text(text)
    done = edgeq("serve", bundle, "--config", tmp_path / "conf")
    assert_refused(done, "does not hold the settings", names, status=78)


@pytest.mark.parametrize(
    ("flags", "status"),
    [(("--memory", "-1"), 78), (("--memory", "nan"), 78), (("--name", "a b"), 78), (("--port", "70000"), 2)],
)
def test_flags_out_of_range(edgeq: Edgeq, bundle: Path, flags: tuple[str, str], status: int) -> None:
    """Of the settings; what the command line itself does not take is 2, as of every verb."""
    assert_refused(edgeq("serve", bundle, *flags), status=status)
