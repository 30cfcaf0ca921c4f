"""Catalogs whose making is killed at random: an actor of Ray, its driver, a process, or the power of a frail disk.

Each kill is of a catalog of its own, which the same call then brings to its end. It must be that of a run that nobody
disturbed, to the byte; no image may be in it twice; and no worker may have done more than one shard again.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, get_args

TESTS: Final = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS / name) for name in ("helpers", "install", "catalog")]

from dying import in_child, profiled  # noqa: E402
from frail_disk import DIED, FrailDisk, Loss  # noqa: E402
from small_catalogs import SHARD, SimulatedEncoder, build, contents, files, folder, image_paths  # noqa: E402

KINDS: Final = ("process", "power", "actor", "driver")
IMAGES: Final = 40
SHARDS: Final = IMAGES // SHARD
DISK_CHANGES: Final = 150
"""More than a build has: a moment behind its end is drawn again."""

DELAY_S: Final = 0.3
ACTORS: Final = 2


@dataclass(frozen=True)
class Kill:
    """What came of one.

    Attributes:
        kind: what was killed.
        whole: shards that were whole then.
        again: images embedded more than once.
        workers: that were at work.
        rows: of the catalog in the end.
        twice: images with more than one row.
        equal: every file is that of the undisturbed run.
    """

    kind: str
    whole: int
    again: int
    workers: int
    rows: int
    twice: int
    equal: bool

    @property
    def passed(self) -> bool:
        """Whether all holds."""
        return self.equal and not self.twice and self.rows == IMAGES and self.again <= self.workers * SHARD


class Killer:
    """Kills and looks at what is left.

    Args:
        scratch: a directory.
        chance: draws the moments.
    """

    def __init__(self, scratch: Path, chance: random.Random) -> None:
        self._scratch, self._chance = scratch, chance
        self._images = folder(scratch / "images", {name: data for name, data in files(IMAGES).items() if "png" in name})
        self._events = scratch / "events"
        assert in_child(self._undisturbed) == 0
        self._expected = contents(scratch / "whole")
        self._moments = int(self._events.read_text())
        self.address = ""

    def kill(self, kind: str) -> Kill:
        """One of a kind, in the middle of a catalog's making; a moment that comes too late is drawn again."""
        does: dict[str, Callable[[Path, Path], tuple[int, int, int] | None]] = {
            "process": self._process,
            "power": self._power,
            "actor": self._actor,
            "driver": self._driver,
        }
        while True:
            root, log = self._scratch / "root", self._scratch / "log"
            for place in (root, log):
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
            found = does[kind](root, log)
            if found is not None:
                break
        whole, probes, workers = found
        embedded = sum(int(line) for path in log.iterdir() for line in path.read_text().split())
        paths = Counter(image_paths(root / "cat"))
        return Kill(
            kind=kind,
            whole=whole,
            again=embedded - probes - IMAGES,
            workers=workers,
            rows=paths.total(),
            twice=sum(count > 1 for count in paths.values()),
            equal=contents(root / "cat") == self._expected,
        )

    def _undisturbed(self) -> None:
        with profiled() as events:
            build(self._images, self._scratch / "whole")
        self._events.write_text(str(events[0]))

    def _process(self, root: Path, log: Path) -> tuple[int, int, int] | None:
        """SIGKILL at a call or return of a function."""
        moment = self._chance.randrange(1, self._moments)

        def act() -> None:
            with profiled(moment):
                build(self._images, root / "cat", encoder=SimulatedEncoder(log / "first"))

        return self._finish(root, log) if in_child(act) == -signal.SIGKILL else None

    def _power(self, root: Path, log: Path) -> tuple[int, int, int] | None:
        """The process dies at a change to the disk, which forgets what was not synced."""
        loss: Loss = self._chance.choice([each for each in get_args(Loss) if each != "nothing"])
        moment = self._chance.randrange(1, DISK_CHANGES)

        def act() -> None:
            disk = FrailDisk(root, loss)
            disk.die_at(moment)
            build(self._images, root / "cat", encoder=SimulatedEncoder(log / "first"))

        return self._finish(root, log) if in_child(act) == DIED else None

    def _finish(self, root: Path, log: Path) -> tuple[int, int, int]:
        """The same call again; each that embeds sees the encoder's shape with one image."""
        whole = _whole(root)
        assert in_child(partial(build, self._images, root / "cat", encoder=SimulatedEncoder(log / "second"))) == 0
        return whole, sum(path.exists() for path in (log / "first", log / "second")), 1

    def _actor(self, root: Path, log: Path) -> tuple[int, int, int] | None:
        """SIGKILL to one of two, some time after a shard was made."""
        from ray_cluster import actors
        from ray_encoders import Opener, index

        after, killed = self._chance.randrange(SHARDS - 1), list[int]()

        def kill(_done: int, _total: int) -> None:
            whole = _whole(root)
            if not killed and whole >= after and (there := actors()):
                time.sleep(self._chance.uniform(0, DELAY_S))
                os.kill(self._chance.choice(there), signal.SIGKILL)
                killed.append(whole)

        with redirect_stdout(sys.stderr):  # Ray prints that an actor died
            index(self.address, self._images, root / "cat", Opener(log), actors=ACTORS, progress=kill)
        return (killed[0], self._probes(log), 1) if killed else None

    def _driver(self, root: Path, log: Path) -> tuple[int, int, int] | None:
        """SIGKILL to the driver, some time after a shard was made."""
        from ray_cluster import actors, environment, wait_for
        from ray_encoders import Opener, index

        after = self._chance.randrange(SHARDS - 1)
        script = TESTS / "catalog" / "ray_encoders.py"
        command = [sys.executable, *map(str, (script, self.address, self._images, root / "cat", log))]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment()}
        ) as driver:
            try:
                wait_for(lambda: _whole(root) >= after)
                time.sleep(self._chance.uniform(0, DELAY_S))
            finally:
                driver.kill()
        wait_for(lambda: not actors())
        whole = _whole(root)
        if whole == SHARDS:
            return None
        index(self.address, self._images, root / "cat", Opener(log), actors=ACTORS)
        return whole, self._probes(log), ACTORS

    def _probes(self, log: Path) -> int:
        """Batches of one image: no other is as small, since a shard of five is embedded by three and two."""
        return sum(line == "1" for path in log.iterdir() for line in path.read_text().split())


def _whole(root: Path) -> int:
    """Shards that have a record."""
    return len(list((root / "cat" / "shards").glob("0*.json")))


def show(kills: list[Kill]) -> None:
    """A line for each kind."""
    heads = ("killed", "kills", "whole then", "again, most", "allowed", "rows", "twice", "other")
    print("{:10}{:>6}{:>12}{:>13}{:>9}{:>6}{:>7}{:>7}".format(*heads))
    for kind in KINDS:
        some = [kill for kill in kills if kill.kind == kind]
        if not some:
            continue
        whole = f"{min(kill.whole for kill in some)} to {max(kill.whole for kill in some)}"
        again, twice = max(kill.again for kill in some), sum(kill.twice for kill in some)
        rows = "/".join(sorted({str(kill.rows) for kill in some}))
        other = sum(not kill.equal for kill in some)
        print(f"{kind:10}{len(some):>6}{whole:>12}{again:>13}{some[0].workers * SHARD:>9}{rows:>6}{twice:>7}{other:>7}")


def main() -> int:
    """Kill, print the table; status 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    chance = random.Random(given.seed)
    # By kind, since a process that has started Ray has threads and is not to be forked.
    drawn = sorted((chance.choice(given.kinds) for _ in range(given.kills)), key=KINDS.index)
    begun, kills = time.monotonic(), list[Kill]()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        killer = Killer(Path(scratch), chance)
        for kind in drawn:
            if kind in ("actor", "driver") and not killer.address:
                from ray_cluster import started

                killer.address = str(stack.enter_context(started()).address)
            kills.append(killer.kill(kind))
            if not kills[-1].passed:
                print(kills[-1], file=sys.stderr)
    show(kills)
    passed = sum(kill.passed for kill in kills)
    print(f"{passed} of {len(kills)} hold, seed {given.seed}, {time.monotonic() - begun:.0f} s")
    return 0 if passed == len(kills) else 1


if __name__ == "__main__":
    sys.exit(main())
