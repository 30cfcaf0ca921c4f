"""Every test file is collected: pytest passes over folders that it takes for output, and says nothing.

And what `make test-newest` leaves out is there, and has a reason.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PLUGIN = """
import pytest

def pytest_collect_file(file_path, parent):
    if file_path.name.startswith("test_"):
        print(f"collects {file_path}")

@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path, parent):
    return Nothing.from_parent(parent, path=module_path)

class Nothing(pytest.File):
    def collect(self):
        return []
"""
"""Tells each file that would be imported, and imports none: that would take half a minute."""


def collected(tests: Path, scratch: Path) -> set[Path]:
    """The test files that pytest finds below a directory, with this project's settings."""
    (scratch / "tell_files.py").write_text(PLUGIN)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-s", "--collect-only", "--noconftest", "-p", "tell_files", tests],
        cwd=TESTS.parent,
        env={"PYTHONPATH": str(scratch), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("collects ")]
    told = {Path(line.removeprefix("collects ")) for line in lines}
    return {path for path in told if tests in path.parents}  # pytest also looks at what lies beside the way there


def test_every_test_file_is_collected(tmp_path: Path) -> None:
    assert collected(TESTS, tmp_path) == set(TESTS.rglob("test_*.py"))


def test_every_file_of_tests_has_a_name_of_its_own() -> None:
    """Folders without __init__.py share one name space."""
    names = [path.name for path in TESTS.rglob("*.py")]
    assert sorted(names) == sorted(set(names))


def test_a_folder_that_pytest_passes_over_is_noticed(tmp_path: Path) -> None:
    for folder in ("build", "kept"):
        (tmp_path / "tests" / folder).mkdir(parents=True)
        (tmp_path / "tests" / folder / f"test_{folder}.py").touch()
    assert collected(tmp_path / "tests", tmp_path) == {tmp_path / "tests" / "kept" / "test_kept.py"}


def test_what_is_left_out_with_the_newest_releases_is_there_and_has_a_reason() -> None:
    """A blank line between groups, each with its reason on top; a name that is gone would leave out its successor."""
    _, *groups = (TESTS / "newest_without.txt").read_text(encoding="utf-8").split("\n\n")
    named: list[str] = []
    for reason, *names in map(str.splitlines, groups):
        assert reason.startswith("# ")
        assert names == sorted(names)
        named += names
    assert len(named) > 50
    assert len(set(named)) == len(named)
    missing = [name for name in named if not name.startswith("tests/") or not (TESTS.parent / name).exists()]
    assert not missing
    assert not [name for name in named if str(Path(name).parent) in named], "named with its folder"
