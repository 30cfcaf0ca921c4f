"""Killed anywhere, and made by several processes at once: the catalog is that of one undisturbed run."""

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
from small_catalogs import build, contents, files, folder, image_paths

HERE = Path(__file__).resolve().parent
MEMORY = Path("/dev/shm")
"""Where fsync(2) takes no time; what a disk forgets is simulated anyway."""

SETTINGS = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent / "install", HERE.parent / "helpers", HERE.parents[1]))),
    "OPENBLAS_NUM_THREADS": "1",  # it would begin threads, and a process with threads is not to be forked
}


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
    """The stories and what must hold after each death are in dying_builds.py, which forks: no thread may be near it."""
    done = subprocess.run(
        [sys.executable, HERE / "dying_builds.py", scratch],
        capture_output=True,
        text=True,
        env=SETTINGS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    # Two shards of three files each, a plan, settings, and what readers read: each is synced and named.
    assert min(report["deaths"].values()) > 20
    assert len(report["deaths"]) == 4
    assert report["kills"] == 15
    assert report["kept"] > 0


@pytest.mark.parametrize(
    "ranges",
    [
        [["0", "3"], ["4", "7"]],
        [["0", "5"], ["3", "7"], ["2", "2"]],
        [[], [], []],
    ],
)
def test_several_processes_make_each_shard_once(scratch: Path, ranges: list[list[str]]) -> None:
    images = folder(scratch / "images", files(38))
    build(images, scratch / "whole")
    logs = [scratch / f"log{number}" for number in range(len(ranges))]
    workers = [
        subprocess.Popen(
            [sys.executable, HERE / "catalog_worker.py", images, scratch / "cat", log, *shards],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=SETTINGS,
        )
        for log, shards in zip(logs, ranges, strict=True)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    said = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(workers)
    assert "whole\n" in said
    assert contents(scratch / "cat") == contents(scratch / "whole")
    assert sorted(image_paths(scratch / "cat")) == [f"{images}/{number:04d}.png" for number in range(38)]
    # The first image that each worker embeds shows what the encoder takes; it is in no shard.
    batches = [[int(line) for line in log.read_text().split()] for log in logs if log.exists()]
    assert sum(map(sum, batches)) - len(batches) == 38
