"""The command line in this process, and what it is given."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from networks import ALLOWED, QUICK, write_model
from pictures import draw_pictures

from edgeq.cli import progress, run
from edgeq.cli.error_report import ErrorReport
from edgeq.pipeline import search
from edgeq.quality import judge
from edgeq.quality.latency import measure_latency


@dataclass(frozen=True)
class Outcome:
    """What a command line did: exit status, stdout, stderr."""

    status: int
    out: str
    err: str


Edgeq = Callable[..., Outcome]

MAX_LINES = 10

ALLOW_FLAGS = tuple(word for code, because in ALLOWED.items() for word in ("--allow", code, "--because", because))
"""`ALLOWED` on the command line."""


def listing(directory: Path) -> list[tuple[str, int]]:
    """Every file and directory below, hidden ones too, with its size."""
    return sorted((path.relative_to(directory).as_posix(), path.lstat().st_size) for path in directory.rglob("*"))


def assert_refused(done: Outcome, *words: str, status: int = 2) -> None:
    """The status, a few lines on stderr with all of `words` in them, no traceback, and on stdout nothing.

    With `--json` stdout has the error as an object.
    """
    assert done.status == status
    assert not done.out or ErrorReport.model_validate_json(done.out).exit_status == status
    assert "Traceback" not in done.err
    assert len(done.err.rstrip().splitlines()) <= MAX_LINES, done.err
    for word in words:
        assert word in done.err


@pytest.fixture
def edgeq(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Edgeq:
    """Run `edgeq ARGUMENTS` in this process.

    What it says on stderr is the same on a slow machine: no line comes because a stage lasts.
    """
    monkeypatch.setattr(progress, "EVERY_S", 3600.0)

    def call(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO is not installed."""
    look = importlib.util.find_spec

    def find_spec(name: str) -> object:
        return None if name == "openvino" else look(name)

    monkeypatch.setattr("edgeq.engine.registry.find_spec", find_spec)


@pytest.fixture
def quick_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency is measured in one short round: its figure is not what these tests look at."""
    for module in (judge, search):
        monkeypatch.setattr(module, "measure_latency", _measure_once)


def _measure_once(*arguments: object, **options: object) -> object:
    return measure_latency(*arguments, **{**options, "timing": QUICK})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MODEL directory with a small network; not to be written to."""
    return write_model(tmp_path_factory.mktemp("given") / "model")


@pytest.fixture(scope="session")
def tiny_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """102 pictures in three class folders, as many as no guard objects to; not to be written to."""
    return draw_pictures(tmp_path_factory.mktemp("given") / "pictures", each=34)


@pytest.fixture(scope="session")
def tiny_answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 other pictures to judge by; not to be written to."""
    return draw_pictures(tmp_path_factory.mktemp("given") / "answers", seed=1)
