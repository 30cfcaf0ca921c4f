"""The commands of docs/cameras.md are run, on a film and a stream that are made here."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from classifier_bundle import classifier_bundle
from command import Edgeq
from films import RtspServer, draw_film, served

from edgeq.cli.device import run, watch
from edgeq.frames.registry import SOURCES
from edgeq.service.watch_frames import FrameReport

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cameras.md").read_text(encoding="utf-8")
VERBS = {"watch": watch.command, "run": run.command}


def commands(language: str) -> list[list[str]]:
    """The words of each line of `edgeq` in blocks of this language, without the name."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    lines = [line for text in found for line in text.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("edgeq ")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A directory with what the page speaks of."""
    (tmp_path / "bundle").symlink_to(classifier_bundle(tmp_path_factory))
    draw_film(tmp_path / "film.mp4", 20, rate=10)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("place")
def test_watch(edgeq: Edgeq) -> None:
    """A camera's ends after two answers; test_cli_run.py has those of `edgeq run`."""
    found = [words for words in commands("sh") if words[0] == "watch"]
    with served(RtspServer) as server:
        for words in found:
            more = ["--frames", "2"] if any("rtsp://" in word for word in words) else []
            words = [word.replace("camera:554", f"127.0.0.1:{server.server_address[1]}") for word in words]
            done = edgeq(*words, *more, "--backend", "onnxruntime", "--threads", "1")
            assert done.status == 0, (words, done.err)
    assert len(found) == 3
    assert Path("seen.mkv").stat().st_size
    assert len(Path("camera.jsonl").read_text().splitlines()) == 2


def test_what_needs_a_jetson_is_understood() -> None:
    """The command lines are taken, and their sources are of the kind that is told of."""
    kinds = []
    for verb, *words in commands("text"):
        given = VERBS[verb].make_context(verb, list(words)).params
        kinds.append(next(kind.name for kind in SOURCES if kind.takes(given["source"])))
    assert kinds == ["pipeline of GStreamer", "pipeline of GStreamer", SOURCES[1].name]


def test_the_line_of_the_page_is_one() -> None:
    (text,) = re.findall(r"^```json\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    line = json.loads(text)
    line["seen"]["complete"] = True  # the page leaves some of it out
    assert FrameReport.model_validate(line).frame == 1204
