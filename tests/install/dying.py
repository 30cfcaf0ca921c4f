"""Install, roll back and prune in processes that die: `python dying.py SCRATCH`, in a process without threads.

Prints one JSON object: how often a process died in each story, and how often it was killed at random.
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from frail_disk import DIED, FrailDisk, Loss
from small_bundles import check_clean, make_version, pair

from edgeq.bundle.transport import pack
from edgeq.errors import GateError
from edgeq.install.history import read_history
from edgeq.install.run import install, prune, rollback
from edgeq.install.store import Store
from edgeq.install.trust import read_memory

VERSIONS = 5
RANDOM_KILLS = 200
EVERY = 10
SEED = 20

Pair = tuple[str | None, str | None]


@dataclass(frozen=True)
class Story:
    """What a process dies of.

    Attributes:
        before: what is done before.
        act: what it does.
        outcomes: the pairs (current, previous) that may be found afterwards; the last one when it was not interrupted.
        losses: of the disks that it is tried on.
    """

    before: Callable[[Path], object]
    act: Callable[[Path], object]
    outcomes: tuple[Pair, ...]
    losses: tuple[Loss, ...] = ("names",)


def nod(_version: Path) -> None:
    """A check that passes."""


def shake(_version: Path) -> None:
    """A check that fails."""
    raise GateError("canary 0 has the cosine 0.1")


def refused(bundle: Path, root: Path) -> None:
    """Install a version whose check fails."""
    with suppress(GateError):
        install(bundle, root, check=shake)


def stories(bundles: list[Path], files: list[Path], ids: list[str]) -> dict[str, Story]:
    """Bundle directories, the same as files, and their ids, by number."""

    def first(*numbers: int) -> Callable[[Path], object]:
        return lambda root: [install(bundles[number], root) for number in numbers]

    return {
        "first": Story(first(), lambda root: install(bundles[1], root), ((None, None), (ids[1], None))),
        "upgrade": Story(
            first(0, 1),
            lambda root: install(bundles[2], root, check=nod),
            ((ids[1], ids[0]), (ids[2], ids[1])),
            losses=("bytes", "names"),
        ),
        "upgrade from a file": Story(
            first(0, 1), lambda root: install(files[2], root), ((ids[1], ids[0]), (ids[2], ids[1]))
        ),
        "failed check": Story(
            first(0, 1),
            lambda root: refused(bundles[2], root),
            ((ids[2], ids[1]), (ids[1], ids[0])),
        ),
        "rollback": Story(first(0, 1), rollback, ((ids[1], ids[0]), (ids[0], ids[1]))),
        "prune": Story(first(0, 1, 2), lambda root: prune(root, 0), ((ids[2], ids[1]),)),
    }


def in_child(act: Callable[[], object]) -> int:
    """Run in a forked process; give its exit status, negative where a signal ended it."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_everywhere(story: Story, loss: Loss, scratch: Path, after: Callable[[Path], str]) -> int:
    """Die at the first change, the second, and so on, until the story comes to its end; give the number of deaths.

    Args:
        story: to be interrupted.
        loss: of the disk.
        scratch: a directory to work in.
        after: installs something else once the power is back, and gives its id.
    """
    for count in range(1, 1000):
        root = scratch / "root"
        root.mkdir()
        story.before(root)
        status = in_child(partial(_die, story, root, loss, count))
        assert status in (0, DIED), f"ended with {status} at change {count}"
        found = pair(root)
        assert found in (story.outcomes if status == DIED else story.outcomes[-1:]), f"{found} after change {count}"
        check_memory(root)
        new = after(root)
        assert pair(root) in [(new, current) for current, _ in story.outcomes]
        check_clean(root)
        shutil.rmtree(root)
        if status == 0:
            return count - 1
    raise AssertionError("it never came to its end")


def check_memory(root: Path) -> None:
    """What a store remembers can be read, and its history goes to where that says."""
    store = Store(root.resolve())
    damage = read_history(store, read_memory(store).head)[1]
    assert not damage, damage


def _die(story: Story, root: Path, loss: Loss, count: int) -> None:
    disk = FrailDisk(root, loss)
    disk.die_at(count)
    story.act(root)
    disk.cut(0)


@dataclass(frozen=True)
class Step:
    """One thing that is done to a store: the pair that is there when it is done, and the one on the way, if another."""

    act: Callable[[Path], object]
    done: Pair
    underway: Pair


def draw_step(chance: random.Random, bundles: list[Path], ids: list[str], root: Path) -> Step:
    """A step at random, from what the store will be once a check that was killed is undone."""
    undone = root / "state" / "back"
    was: Pair = pair(undone if undone.exists() else root)
    number = chance.randrange(VERSIONS)
    installed = (ids[number], was[1] if was[0] == ids[number] else was[0])
    back = was if undone.exists() else (was[1], was[0])
    return chance.choice(
        [
            Step(lambda root: install(bundles[number], root), installed, was),
            Step(lambda root: install(bundles[number], root, check=nod), installed, was),
            Step(lambda root: refused(bundles[number], root), was, installed),
            Step(rollback, back, was),
            Step(lambda root: prune(root, 1), was, was),
        ]
    )


def die_anywhere(bundles: list[Path], ids: list[str], root: Path) -> int:
    """Be killed at random while one thing after another is done to one store; give the number of kills.

    The kernel kills at a call or return of a function, in Python or in C, which is drawn from as many as an install
    has: a moment drawn from the clock would, on a busy machine, be before the process does anything.
    """
    chance, killed = random.Random(SEED), 0
    install(bundles[0], root, check=nod)
    with profiled() as events:
        install(bundles[1], root, check=nod)
    for count in range(10 * RANDOM_KILLS):
        before, step = pair(root), draw_step(chance, bundles, ids, root)
        status = in_child(partial(_be_killed, partial(step.act, root), chance.randrange(events[0])))
        assert status in (0, -signal.SIGKILL), f"ended with {status}"
        assert pair(root) in ((step.done,) if status == 0 else (before, step.underway, step.done))
        killed += status != 0
        if count % EVERY == 0:
            install(bundles[0], root)
            check_clean(root)
        check_memory(root)
        if killed == RANDOM_KILLS:
            break
    return killed


@contextmanager
def profiled(kill_at: int = -1) -> Iterator[list[int]]:
    """Count the calls and returns of functions, and send SIGKILL to this process at one of them."""
    count = [0]

    def event(_frame: FrameType | None, _event: str, _argument: object) -> None:
        count[0] += 1
        if count[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(event)
    try:
        yield count
    finally:
        sys.setprofile(None)


def _be_killed(act: Callable[[], object], kill_at: int) -> None:
    with profiled(kill_at):
        act()


def main(scratch: Path) -> None:
    """Tell all stories, with all disks, then the random ones."""
    bundles = [scratch / f"bundle{number}" for number in range(VERSIONS)]
    ids = [make_version(bundle, number) for number, bundle in enumerate(bundles)]
    files = [bundle.with_suffix(".edgeq.tar") for bundle in bundles]
    for bundle, file in zip(bundles, files, strict=True):
        pack(bundle, file)
    gc.freeze()

    def after(root: Path) -> str:
        return install(bundles[3], root, check=nod).id

    deaths = {
        f"{name}, {loss} lost": die_everywhere(story, loss, scratch, after)
        for name, story in stories(bundles, files, ids).items()
        for loss in story.losses
    }
    print(json.dumps({"deaths": deaths, "killed": die_anywhere(bundles, ids, scratch / "root")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
