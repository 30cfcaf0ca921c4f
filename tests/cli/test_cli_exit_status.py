"""What each error leaves with, for a person's verbs and for a service; and that docs, unit and code say the same."""

from __future__ import annotations

import errno
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from command import Edgeq
from cuda_errors import LOST, NO_MEMORY

from edgeq import errors
from edgeq.bundle import errors as bundle_errors
from edgeq.cli import cli, run
from edgeq.cli.exit_statuses import BAD_INPUT, CANARY, DONE, FAILED, GATE, MISCONFIGURED, NOT_NOW, SERVICES, exit_status
from edgeq.errors import (
    ArtifactError,
    DeviceLostError,
    EdgeqError,
    EngineError,
    GateError,
    InputError,
    ModelError,
    OutOfMemoryError,
    OutputError,
)
from edgeq.pipeline.vlm import PreparedVlm
from edgeq.runtime.scheduler import errors as scheduler_errors
from edgeq.runtime.scheduler.errors import BusyError, DeadlineError, TooLargeError
from edgeq.service.http.errors import RequestError

ROOT = Path(__file__).resolve().parents[2]
CRASH = """
import os, signal
from edgeq import cli
cli.run = lambda _arguments: os.kill(os.getpid(), signal.SIGSEGV)
cli.main()
"""
"""The command, with a library that crashes: simulated."""

ARGUMENTS: dict[type[EdgeqError], tuple[Any, ...]] = {
    BusyError: (5,),
    DeadlineError: (0,),
    TooLargeError: (2, 1),
    scheduler_errors.ClosedError: (),
    scheduler_errors.ContextError: (9, 0, 8),
    scheduler_errors.RefusedImageError: (0, errors.ImageError("no")),
    RequestError: (429, "busy", "too many"),
}
PASSING = (BusyError, DeadlineError, scheduler_errors.ClosedError, RequestError)


def kinds(kind: type[EdgeqError]) -> Iterator[type[EdgeqError]]:
    """A class and all below it."""
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


ALL = sorted({kind for kind in kinds(EdgeqError) if kind.__module__.startswith("edgeq.")}, key=lambda one: one.__name__)


def made(kind: type[EdgeqError]) -> EdgeqError:
    return kind(*ARGUMENTS.get(kind, ("it is so",)))


def expected(kind: type[EdgeqError]) -> tuple[int, int]:
    """Of a person's verb, and of a service: by the classes that the documentation names."""
    if issubclass(kind, DeviceLostError):
        return FAILED, FAILED
    if issubclass(kind, OutOfMemoryError):
        return NOT_NOW, NOT_NOW
    if issubclass(kind, GateError):
        return GATE, CANARY
    if kind in PASSING or issubclass(kind, OutputError):
        return BAD_INPUT, NOT_NOW
    return BAD_INPUT, MISCONFIGURED if issubclass(kind, InputError) else FAILED


def test_all_classes_are_known() -> None:
    assert {*errors.__all__, *bundle_errors.__all__} - {"first_line", "shell_word"} <= {kind.__name__ for kind in ALL}


@pytest.mark.parametrize("kind", ALL)
def test_every_error_has_its_status(kind: type[EdgeqError]) -> None:
    try:
        error = made(kind)
    except TypeError:
        pytest.skip("made of more than words")
    assert tuple(exit_status(error, service=service) for service in (False, True)) == expected(kind)


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_memory_is_75_whatever_raises_it(error: Exception) -> None:
    assert [exit_status(error, service=service) for service in (False, True)] == [NOT_NOW] * 2


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_lost_accelerator_is_70_whatever_raises_it(error: Exception) -> None:
    assert [exit_status(error, service=service) for service in (False, True)] == [FAILED] * 2


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "verb", "service"),
    [
        (caused(ModelError("it cannot be loaded"), NO_MEMORY[0]), NOT_NOW, NOT_NOW),
        (caused(ModelError("it cannot be loaded"), LOST[0]), FAILED, FAILED),
        (caused(ModelError("it cannot be loaded"), KeyError("layers")), BAD_INPUT, MISCONFIGURED),
        (caused(ArtifactError("it is none"), FileNotFoundError(errno.ENOENT, "none")), BAD_INPUT, NOT_NOW),
        (caused(ArtifactError("it is none"), OSError(errno.EIO, "the disk")), BAD_INPUT, NOT_NOW),
        (caused(ArtifactError("it is none"), PermissionError(errno.EACCES, "no")), BAD_INPUT, MISCONFIGURED),
        (caused(ArtifactError("it is none"), ValueError("a key is missing")), BAD_INPUT, MISCONFIGURED),
        (InputError("no memory for one request", passing=True), BAD_INPUT, NOT_NOW),
        (OSError(errno.EIO, "the disk"), BAD_INPUT, NOT_NOW),
        (OSError(errno.EACCES, "no"), BAD_INPUT, MISCONFIGURED),
        (OSError(errno.EBADF, "a bug"), BAD_INPUT, FAILED),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), BAD_INPUT, MISCONFIGURED),
        (ImportError("libcudart.so.12: cannot open shared object file"), BAD_INPUT, FAILED),
        (EngineError("there is no CUDA device"), BAD_INPUT, FAILED),
        (RuntimeError("a bug"), FAILED, FAILED),
        (AssertionError(), FAILED, FAILED),
    ],
    ids=str,
)
def test_other_errors(error: Exception, verb: int, service: int) -> None:
    assert exit_status(error, service=False) == verb
    assert exit_status(error, service=True) == service


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Every verb fails with this."""

    def invoke(_context: object) -> None:
        raise error

    monkeypatch.setattr(cli, "invoke", invoke)


@pytest.mark.parametrize(
    ("error", "verb", "service", "words"),
    [
        (NO_MEMORY[0], NOT_NOW, NOT_NOW, "memory ran out"),
        (LOST[0], FAILED, FAILED, "an illegal memory access"),
        (GateError("it drops"), GATE, CANARY, "error: it drops"),
        (InputError("it is wrong"), BAD_INPUT, MISCONFIGURED, "error: it is wrong"),
        (click.UsageError("no such option"), BAD_INPUT, BAD_INPUT, "no such option"),
        (SystemExit(1), FAILED, FAILED, "a library ended the process"),
        (KeyboardInterrupt(), 130, 130, "stopped"),
    ],
    ids=str,
)
def test_a_command_line_ends_so_in_a_few_words(
    edgeq: Edgeq, monkeypatch: pytest.MonkeyPatch, error: BaseException, verb: int, service: int, words: str
) -> None:
    failing(monkeypatch, error)
    for name, status in (("run", verb), ("prepare", verb), ("serve", service), ("watch", service)):
        done = edgeq(name)
        assert (name, done.status) == (name, status)
        assert words in done.err
        assert "Traceback" not in done.err


def test_what_nobody_foresaw_shows_where(edgeq: Edgeq, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError("a bug"))
    done = edgeq("run")
    assert done.status == FAILED
    assert "Traceback" in done.err
    assert done.err.rstrip().endswith("ZeroDivisionError: a bug")


def test_no_verb_at_all() -> None:
    assert run([]) in (DONE, BAD_INPUT)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (NO_MEMORY[0], NOT_NOW, "CUDA out of memory"),
        (NO_MEMORY[5], NOT_NOW, "CUDACachingAllocator"),
        (LOST[0], FAILED, "an illegal memory access"),
        (KeyError("layers"), MISCONFIGURED, "layers"),
    ],
    ids=str,
)
def test_a_model_that_cannot_be_loaded_says_whether_to_try_again(
    edgeq: Edgeq,
    prepared_vlm: PreparedVlm,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    words: str,
) -> None:
    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(
        "edgeq.runtime.vlm.language._model_class", lambda _directory: SimpleNamespace(from_pretrained=load)
    )
    done = edgeq("serve", prepared_vlm.bundle, "--no-canaries", "--port", "0", "--threads", "1")
    assert done.status == status
    assert "transformers cannot load the language model" in done.err
    assert words in done.err
    assert "Traceback" not in done.err


def test_a_process_whose_accelerator_is_lost_lets_nothing_go() -> None:
    """What would call it again at an ordinary end, an exit handler here, is not run; what was said is there."""
    code = """
import atexit, sys, edgeq.cli
print("said", end="")
atexit.register(print, "let go")
def invoke(context):
    raise RuntimeError("CUDA error: unspecified launch failure")
edgeq.cli.cli.invoke = invoke
sys.argv = ["edgeq", "run"]
edgeq.cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (FAILED, "said")
    assert "unspecified launch failure" in done.stderr


def test_the_table_is_the_codes() -> None:
    text = (ROOT / "docs/exit-statuses.md").read_text(encoding="utf-8")
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)}
    assert listed == {DONE, GATE, BAD_INPUT, FAILED, NOT_NOW, MISCONFIGURED, CANARY, 130, 141, 143}
    assert all(f"`{name}`" in text for name in SERVICES)


def test_a_crash_in_a_library_says_where() -> None:
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True)
    assert done.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in done.stderr
    assert "cli/__init__.py" in done.stderr
