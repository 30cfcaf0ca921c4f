"""Probes that crash, hang or call exit: real processes, each of which must be a finding and not the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.doctor.child import Outcome, run_probe

QUICK_S, LIMIT_S = 0.3, 60.0


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules in the test's directory can be run."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def probe(tmp_path: Path, code: str, *arguments: str, limit_s: float = LIMIT_S) -> Outcome:
    (tmp_path / "made_up_probe.py").write_text(f"from edgeq.doctor.child import tell\n{code}")
    return run_probe("made_up_probe", *arguments, limit_s=limit_s)


def test_facts_and_arguments(tmp_path: Path) -> None:
    found = probe(tmp_path, "import sys\ntell('a', sys.argv[1:])\nprint('hello')\ntell('b', None)", "x", "y z")
    assert found.facts == {"a": ["x", "y z"], "b": None}
    assert found.whole
    assert found.said.strip() == "hello"


def test_a_crash_keeps_what_was_told(tmp_path: Path) -> None:
    found = probe(tmp_path, "import os, signal\ntell('a', 1)\nos.kill(os.getpid(), signal.SIGSEGV)\ntell('b', 2)")
    assert found.facts == {"a": 1}
    assert not found.whole
    assert found.ending == "it was ended by SIGSEGV"


def test_a_library_that_calls_exit(tmp_path: Path) -> None:
    found = probe(
        tmp_path, "import os, sys\nsys.stderr.write('one\\nCUDA says no\\n')\nsys.stderr.flush()\nos._exit(1)"
    )
    assert found.ending == "it ended with status 1: CUDA says no"


def test_an_exception(tmp_path: Path) -> None:
    found = probe(tmp_path, "tell('a', 1)\nraise RuntimeError('named symbol not found')")
    assert found.ending == "it ended with status 1: RuntimeError: named symbol not found"


def test_one_that_hangs(tmp_path: Path) -> None:
    found = probe(tmp_path, "import signal\nsignal.pause()", limit_s=QUICK_S)
    assert found.returncode is None
    assert not found.whole
    assert found.ending == "it did not end in its time"


def test_a_line_that_was_not_finished(tmp_path: Path) -> None:
    found = probe(tmp_path, """tell('a', 1)\nprint('edgeq-fact {"b": [1, ', end="", flush=True)""")
    assert found.facts == {"a": 1}


def test_a_module_that_is_not_there() -> None:
    assert "No module named nowhere_to_be_found" in run_probe("nowhere_to_be_found", limit_s=LIMIT_S).ending


def test_files_beside_the_user_are_no_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "json.py").write_text("raise RuntimeError('taken from the working directory')")
    monkeypatch.chdir(here)
    assert probe(tmp_path, "tell('a', 1)").facts == {"a": 1}
