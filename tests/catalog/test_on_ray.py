"""Shards made by a real Ray cluster of two nodes on this machine, while actors and drivers die."""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ray_cluster import add_node, environment, wait_for
from small_catalogs import SHARD, build, contents, files, folder, image_paths

from edgeq.catalog.finish import missing_shards
from edgeq.catalog.layout import Layout
from edgeq.errors import EngineError, ImageError, InputError, OutputError

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'edgeq[cluster]'")

from ray_encoders import DEADLY, ENDLESS, Opener, index  # noqa: E402

HERE = Path(__file__).resolve().parent
IMAGES = 38
SHARDS = 8


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    return folder(tmp_path / "images", files(IMAGES))


def pids(log: Path) -> set[int]:
    """Of the actors that have opened the encoder."""
    return {int(path.name) for path in log.iterdir()}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def embedded(log: Path) -> int:
    """Images that the actors embedded."""
    return sum(int(line) for path in log.iterdir() for line in path.read_text().split())


def whole(directory: Path) -> dict[Path, int]:
    """The records of shards, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in (directory / "shards").glob("*.json")}


def picture(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_files_are_those_of_one_process(address: str, images: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    build(images, tmp_path / "whole")
    opener = Opener(tmp_path / "log")
    made = index(address, images, tmp_path / "cat", opener, actors=None, progress=lambda *each: told.append(each))
    assert contents(tmp_path / "cat") == contents(tmp_path / "whole")
    assert made.rows == IMAGES
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert (told[0], told[-1], len(told)) == ((0, IMAGES), (IMAGES, IMAGES), SHARDS + 1)
    assert len(pids(tmp_path / "log")) == 2  # three CPUs, of which one stays free
    assert embedded(tmp_path / "log") == IMAGES + SHARDS  # for each shard one more, to see the encoder's shape
    assert not list((tmp_path / "cat" / "locks").glob("probe-*"))
    before = whole(tmp_path / "cat")
    index(address, images, tmp_path / "cat", opener)
    assert whole(tmp_path / "cat") == before
    assert len(pids(tmp_path / "log")) == 2  # nothing was to be made, so no actor was started


def test_actors_are_killed(address: str, images: Path, tmp_path: Path) -> None:
    """Four times, while shards are under way that are drawn at random."""
    build(images, tmp_path / "whole")
    chance, log, killed = random.Random(3), tmp_path / "log", []
    moments = set(chance.sample(range(SHARDS - 1), 4))

    def kill(_done: int, _total: int) -> None:
        if moments and len(whole(tmp_path / "cat")) >= min(moments):
            moments.remove(min(moments))
            there = sorted(filter(alive, pids(log)))
            if there:
                killed.append(chance.choice(there))
                os.kill(killed[-1], signal.SIGKILL)

    index(address, images, tmp_path / "cat", Opener(log), progress=kill)
    assert len(killed) >= 3
    assert len(pids(log)) >= 2 + len(killed) - 1  # the last may die after the last shard was handed out
    assert contents(tmp_path / "cat") == contents(tmp_path / "whole")
    assert sorted(image_paths(tmp_path / "cat")) == [f"{images}/{number:04d}.png" for number in range(IMAGES)]


def test_the_driver_is_killed(address: str, images: Path, tmp_path: Path) -> None:
    build(images, tmp_path / "whole")
    log, cat = tmp_path / "log", tmp_path / "cat"
    command = [sys.executable, *map(str, (HERE / "ray_encoders.py", address, images, cat, log))]
    own = {**os.environ, **environment()}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=own) as driver:
        try:
            wait_for(lambda: len(whole(cat)) >= 2)
        finally:
            driver.kill()
    wait_for(lambda: not any(map(alive, pids(log))))
    before = whole(cat)
    assert 2 <= len(before) < SHARDS
    missing = missing_shards(cat)
    (tmp_path / "log2").mkdir()
    index(address, images, cat, Opener(tmp_path / "log2"))
    after = whole(cat)
    assert {path: after[path] for path in before} == before
    left = sum(min(SHARD, IMAGES - SHARD * shard) for shard in missing)
    assert embedded(tmp_path / "log2") == left + len(missing)
    assert contents(cat) == contents(tmp_path / "whole")


def test_a_damaged_set_ends_at_once(address: str, images: Path, tmp_path: Path) -> None:
    folder(images, {f"{number:04d}.png": b"no image" for number in range(0, IMAGES, 4)})
    with pytest.raises(ImageError, match="cannot be used, that is more than 5%") as refused:
        index(address, images, tmp_path / "cat", Opener(tmp_path / "log"))
    assert str(images) in refused.value.causes[0]
    assert 20 // SHARD <= len(whole(tmp_path / "cat")) < SHARDS
    assert len(pids(tmp_path / "log")) == 2
    with pytest.raises(ImageError, match="more than 5%"):
        index(address, images, tmp_path / "cat", Opener(tmp_path / "log"))
    assert len(pids(tmp_path / "log")) == 2  # known before any actor is started


def test_a_shard_that_kills_its_actors_is_named(address: str, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    images = folder(tmp_path / "images", {"0001.png": picture((9, 9)), "0002.png": picture(DEADLY)})
    with pytest.raises(EngineError, match=r"shard 0 was handed out 4 times, and each time its actor died: .*died"):
        index(address, images, tmp_path / "cat", Opener(tmp_path / "log"))
    assert len(pids(tmp_path / "log")) == 4


def test_a_shard_that_never_ends_is_named(address: str, tmp_path: Path) -> None:
    """In a stall that is long enough for an actor to be started on a busy machine."""
    (tmp_path / "log").mkdir()
    images = folder(tmp_path / "images", files(SHARD) | {"1000.png": picture(ENDLESS)})
    with pytest.raises(EngineError, match=r"nothing was done for 0\.4 minutes; under way: shards 1\n"):
        index(address, images, tmp_path / "cat", Opener(tmp_path / "log"), stall_minutes=0.4)
    assert missing_shards(tmp_path / "cat") == (1,)


def refuse() -> None:
    raise InputError("the disk is not there", next_step="mount it")


@pytest.mark.parametrize(
    ("opener", "match"),
    [
        ({"bundle": "b" * 64}, r"the node [\d.]+ \([0-9a-f]{8}\) has another bundle: its digest is b{12}"),
        ({"refuse": refuse}, r"cannot be opened on the node [\d.]+ \([0-9a-f]{8}\): the disk is not there"),
    ],
)
def test_a_node_without_the_bundle_is_named(
    address: str, images: Path, tmp_path: Path, opener: dict[str, Any], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        index(address, images, tmp_path / "cat", Opener(tmp_path / "log", **opener), actors=1)
    assert not whole(tmp_path / "cat")
    assert not list(Layout(tmp_path / "cat").locks.glob("probe-*"))


@pytest.mark.parametrize(
    ("hidden", "match"), [("images", "images is not seen on"), ("cat", "the plan of .*cat is not")]
)
def test_what_a_node_does_not_see_is_named(address: str, images: Path, tmp_path: Path, hidden: str, match: str) -> None:
    """It is moved away when the plan is made and no actor is there."""

    def hide(_done: int, _total: int) -> None:
        (tmp_path / hidden).rename(tmp_path / "elsewhere")

    with pytest.raises(InputError, match=match) as refused:
        index(address, images, tmp_path / "cat", Opener(tmp_path / "log"), actors=1, progress=hide)
    assert re.search(r"on the node [\d.]+ \([0-9a-f]{8}\)$", refused.value.what)
    assert not pids(tmp_path / "log")


def test_a_node_that_cannot_write_is_named(address: str, images: Path, tmp_path: Path) -> None:
    """The directory that it is to write into is gone by then."""
    opener = Opener(tmp_path / "log", refuse=partial(shutil.rmtree, tmp_path / "cat" / "locks"))
    with pytest.raises(OutputError, match=r"locks cannot be written on the node [\d.]+ \([0-9a-f]{8}\): No such file"):
        index(address, images, tmp_path / "cat", opener, actors=1)


@pytest.mark.parametrize(("actors", "cpus", "most"), [(3, 1, 2), (1, 3, 0), (2, 2, 1)])
def test_actors_that_leave_no_cpu_are_refused(
    address: str, images: Path, tmp_path: Path, actors: int, cpus: int, most: int
) -> None:
    """One node has one CPU, the other two."""
    with pytest.raises(InputError, match=f"no room for {actors} actors: the cluster has 3 CPUs") as refused:
        index(address, images, tmp_path / "cat", Opener(tmp_path / "log"), actors=actors, cpus=cpus)
    assert f"at most {most} actors" in refused.value.expected
    assert not (tmp_path / "cat").exists()


@pytest.mark.parametrize(
    ("where", "match"), [("127.0.0.1:1", "no Ray cluster can be used at"), ("local", "is no address of a cluster")]
)
def test_no_cluster_is_started(where: str, match: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=match):
        index(where, images, tmp_path / "cat", Opener(tmp_path / "log"))
    assert not (tmp_path / "cat").exists()
    assert not ray.is_initialized()


def test_a_node_is_lost(ray_cluster: Any, address: str, images: Path, tmp_path: Path) -> None:
    """That of two CPUs, where at least one actor is; the other node has room for one."""
    build(images, tmp_path / "whole")
    lost = next(iter(ray_cluster.worker_nodes))

    def lose(_done: int, _total: int) -> None:
        if lost in ray_cluster.worker_nodes and whole(tmp_path / "cat"):
            there = set(filter(alive, pids(tmp_path / "log")))
            ray_cluster.remove_node(lost, allow_graceful=False)
            wait_for(lambda: not all(map(alive, there)))

    try:
        index(address, images, tmp_path / "cat", Opener(tmp_path / "log"), progress=lose)
        assert not ray_cluster.worker_nodes
    finally:
        add_node(ray_cluster, 2)
    assert len(pids(tmp_path / "log")) >= 2
    assert contents(tmp_path / "cat") == contents(tmp_path / "whole")
