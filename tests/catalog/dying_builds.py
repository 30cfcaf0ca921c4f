"""Catalogs made by processes that die: `python dying_builds.py SCRATCH`, in a process without threads.

Prints one JSON object: how often a process died in each story, and what the killed ones did again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dying import in_child, profiled
from frail_disk import DIED, FrailDisk, Loss
from small_catalogs import SHARD, SimulatedEncoder, build, contents, files, folder, image_paths, picture

from edgeq.catalog.layout import ShardRecord
from edgeq.catalog.read import open_catalog

KILLS = 15
IMAGES = 60
SEED = 20


@dataclass(frozen=True)
class Story:
    """What a process dies of.

    Attributes:
        before: what is done to the images and the catalog before.
        change: what is done to the images then.
    """

    before: Callable[[Path, Path], object]
    change: Callable[[Path], object]


def nothing(*_: Path) -> None:
    """Leave it as it is."""


def change(images: Path) -> None:
    """One image goes, one changes, and some come."""
    (images / "0001.png").unlink()
    folder(images, {"0002.png": picture(1002)} | files(4, first=7))


STORIES = {"first": Story(nothing, nothing), "grows": Story(build, change)}


def die_everywhere(story: Story, loss: Loss, scratch: Path) -> int:
    """Die at the first change to the disk, the second, and so on, and have another process go on; give the deaths."""
    expected: dict[str, bytes] = {}
    begun = scratch / "begun"
    begun.mkdir()
    assert in_child(partial(story.before, _seven(scratch), begun / "cat")) == 0
    for count in (10**9, *range(1, 1000)):
        root = shutil.copytree(begun, scratch / "root")
        images = _seven(scratch)
        story.change(images)
        _dated(images)
        status = in_child(partial(_die, images, root, loss, count))
        assert status in (0, DIED), f"ended with {status} at change {count}"
        if (root / "cat/catalog.json").exists():
            open_catalog(root / "cat", verify=True)  # what a reader finds is whole, whenever it looks
        assert in_child(partial(build, images, root / "cat")) == 0
        found = contents(root / "cat")
        expected = expected or found
        assert found.keys() == expected.keys(), f"{found.keys() ^ expected.keys()} after change {count}"
        assert found == expected, f"another catalog after change {count}"
        shutil.rmtree(root)
        if status == 0 and count < 10**9:
            shutil.rmtree(begun)
            return int(count) - 1
    raise AssertionError("it never came to its end")


def _seven(scratch: Path) -> Path:
    """A folder of seven images, made afresh, with one date."""
    shutil.rmtree(scratch / "images", ignore_errors=True)
    given = {name: data for name, data in files(7).items() if "json" not in name}
    return _dated(folder(scratch / "images", given))


def _dated(images: Path) -> Path:
    for file in images.iterdir():
        os.utime(file, (1_700_000_000, 1_700_000_000))
    return images


def _die(images: Path, root: Path, loss: Loss, count: int) -> None:
    disk = FrailDisk(root, loss)
    disk.die_at(count)
    build(images, root / "cat")
    disk.cut(0)


def die_anywhere(scratch: Path) -> dict[str, int]:
    """Be killed at random while one catalog is made, then finish it; say how much was embedded again.

    The kernel kills at a call or return of a function, drawn from as many as an eighth of a build has.
    """
    chance = random.Random(SEED)
    shutil.rmtree(scratch / "images")
    images = folder(scratch / "images", {name: data for name, data in files(IMAGES).items() if "png" in name})
    assert in_child(partial(_count, images, scratch / "whole", scratch / "events")) == 0
    events = int((scratch / "events").read_text())
    kills, kept, again, log = 0, 0, 0, scratch / "log"
    while kills < KILLS:
        log.write_text("")
        before = _rows(scratch / "cat")
        status = in_child(partial(_be_killed, images, scratch / "cat", log, chance.randrange(events // 8, events // 2)))
        assert status in (0, -signal.SIGKILL), f"ended with {status}"
        made = _rows(scratch / "cat") - before
        embedded = sum(map(int, log.read_text().split()))
        # One image to see what the encoder takes, and at most the shard that was being made.
        assert embedded <= made + SHARD + 1, f"{embedded} images were embedded for {made} rows"
        kills, kept, again = kills + (status != 0), kept + made * (status != 0), again + max(embedded - made - 1, 0)
        if status == 0:  # finished before the moment that was drawn: begin again
            _check(scratch)
            shutil.rmtree(scratch / "cat")
    assert in_child(partial(build, images, scratch / "cat")) == 0
    _check(scratch)
    return {"kills": kills, "kept": kept, "again": again}


def _check(scratch: Path) -> None:
    """The catalog is that of an undisturbed run, and no image is in it twice."""
    assert contents(scratch / "cat") == contents(scratch / "whole")
    paths = image_paths(scratch / "cat")
    assert len(paths) == len(set(paths)) == IMAGES


def _rows(directory: Path) -> int:
    """The rows of shards that have a record."""
    return sum(ShardRecord.load(path).rows for path in (directory / "shards").glob("0*.json"))


def _count(images: Path, directory: Path, told: Path) -> None:
    with profiled() as events:
        build(images, directory)
    told.write_text(str(events[0]))


def _be_killed(images: Path, directory: Path, log: Path, kill_at: int) -> None:
    with profiled(kill_at):
        build(images, directory, encoder=SimulatedEncoder(log))


def main(scratch: Path) -> None:
    """Tell both stories, with both disks, then the random ones."""
    picture(0)  # loads what each of some hundred children would load again
    losses: tuple[Loss, ...] = ("names", "bytes")
    deaths = {
        f"{name}, {loss} lost": die_everywhere(story, loss, scratch)
        for name, story in STORIES.items()
        for loss in losses
    }
    print(json.dumps({"deaths": deaths, **die_anywhere(scratch)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
