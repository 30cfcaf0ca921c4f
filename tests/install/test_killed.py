"""Killed anywhere: a whole version is always current, none is lost, and the next install cleans up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dying import RANDOM_KILLS

HERE = Path(__file__).resolve().parent
MEMORY = Path("/dev/shm")
"""Where fsync(2) takes no time; what a disk forgets is simulated anyway."""


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(prefix="edgeq-test-", dir=MEMORY))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def test_killed_at_every_change_to_the_disk_and_at_random(scratch: Path) -> None:
    """The stories and what must hold after each death are in dying.py, which forks: no thread may be near it."""
    paths = (HERE, HERE.parent / "helpers", HERE.parents[1])
    done = subprocess.run(
        [sys.executable, HERE / "dying.py", scratch],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["killed"] == RANDOM_KILLS
    # An install names two new objects, a version, a record and one state or more, and syncs each of them.
    for story in ("first", "upgrade", "upgrade from a file", "failed check"):
        assert report["deaths"][f"{story}, names lost"] > 20
    # A rollback and a prune write next to nothing: a state and a link, or one name taken away.
    for story in ("rollback", "prune"):
        assert report["deaths"][f"{story}, names lost"] > 5
