"""Power cuts: QEMU is killed while the machine installs, upgrades, prunes or indexes, and what is left must start."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from rehearsal.machine.emulator import Booted, Hardware, booted
from rehearsal.machine.image import GUEST, Disk
from rehearsal.machine.writes import blocks, keep
from rehearsal.report import UnexpectedError

__all__ = ["KINDS", "Cut", "Cuts", "summary", "what_is_wrong"]

KINDS: Final = ("install", "upgrade", "prune", "index")

Cache = Literal["kept", "lost"]
"""What became of writes that the disk had taken and not been told to flush."""

_MEMORY_MIB: Final = 1024
_CHECK_S: Final = 900.0
_ACT_S: Final = 900.0
_LATER: Final = 1.1
"""A cut comes within so many times of what the same thing took before, so that some come just after its end."""


class Cut(BaseModel):
    """One.

    Attributes:
        number: from 1.
        kind: what was cut.
        delay_s: after its beginning.
        ended: it had ended when the power went.
        cache: what became of writes that were not flushed.
        writes, unflushed, lost: those of the machine, those after its last flush, and of these those that were lost.
        found: what the machine said at its next start.
        wrong: what does not hold; empty where all does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    kind: str
    delay_s: float
    ended: bool
    cache: Cache
    writes: int
    unflushed: int
    lost: int
    found: dict[str, Any]
    wrong: str


@dataclass
class _Marks:
    """What a machine said until its power went.

    Attributes:
        sure: the release in use by the last thing that had ended.
        begun: a release whose upgrade had begun and not ended; None for none.
        took: seconds of each kind.
        ended: the last thing that was begun has ended.
    """

    sure: int | None = None
    begun: int | None = None
    took: dict[str, float] = field(default_factory=dict)
    ended: bool = False

    def read(self, line: str) -> None:
        """Take a line of its console."""
        words = line.split()
        if words[:1] != ["MARK"] or len(words) < 4:
            return
        _, what, kind, number, *seconds = words
        self.ended = what == "end"
        if kind == "upgrade":
            self.begun = int(number) if what == "begin" else None
        if what == "end":
            if kind == "upgrade":
                self.sure = int(number)
            if float(seconds[0]):
                self.took[kind] = float(seconds[0])


def what_is_wrong(found: dict[str, Any], sure: int | None, begun: int | None) -> str:
    """What a machine found after a cut, against what it may find; empty where all holds.

    Args:
        found: what it said.
        sure: the release that was in use.
        begun: the one whose upgrade was cut; None for none.
    """
    wrong = [each["wrong"] for each in (found["store"], found.get("first", {"wrong": ""}))]
    wrong += [found["serves"], found.get("first_serves", ""), found.get("catalog", "")]
    now = found["store"]["sequence"]
    if now not in {sure, begun} - {None}:
        wrong.append(f"release {now} is in use, not {sure}{f' or {begun}' if begun else ''}")
    if found.get("first", {"sequence": None})["sequence"] not in (None, 1):
        wrong.append("another release than the first one is in use in the new store")
    return "; ".join(each for each in wrong if each)


class Cuts:
    """A machine whose power is cut again and again.

    Args:
        disk: that it is begun with.
        work: a directory for its image and its logs.
        seed: of the moments, and of what the disk loses.
        say: told of each cut.
    """

    def __init__(self, disk: Disk, work: Path, seed: int, say: Callable[[Cut], None]) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self._disk, self._work, self._say = disk, work, say
        self._chance = random.Random(seed)
        self._image = work / "cut.ext4"
        self._marks = _Marks()
        self.taken: list[Cut] = []

    def begin(self) -> dict[str, float]:
        """Install the first release, and do each thing once without a cut; gives the seconds that each took."""
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", self._disk.image, self._image], check=True)
        with self._on(("rehearsal.fresh=1", "rehearsal.once=1", f"rehearsal.kinds={','.join(KINDS)}")) as machine:
            found = self._checked(machine)
            self._marks.sure = 1
            machine.wait_for(r"MARK done|FAULT", 4 * _ACT_S)
            self._read(machine)
        self._keep(None)
        if wrong := what_is_wrong(found, 1, None):
            raise UnexpectedError(wrong)
        if set(self._marks.took) != set(KINDS):
            raise UnexpectedError(f"it did {self._marks.took}: {' / '.join(machine.lines[-3:])}")
        return dict(self._marks.took)

    def run(self, count: int) -> None:
        """Cut so often; each start looks at what the cut before it left, and then does what is cut next."""
        before: tuple[str, float, bool, Cache, tuple[int, int, int]] | None = None
        for number in range(count + 1):
            kind = KINDS[number % len(KINDS)]
            words = [f"rehearsal.kinds={kind}"] + ([f"rehearsal.before={before[0]}"] if before else [])
            if number == count:
                words.append("rehearsal.once=1")
            with self._on(tuple(words)) as machine:
                found = self._checked(machine)
                if before is not None:
                    self._take(number, *before, found)
                if number == count:
                    return
                self._marks.sure, self._marks.begun = found["store"]["sequence"], None
                delay = self._chance.uniform(0, self._marks.took[kind] * _LATER)
                machine.wait_for(rf"MARK begin {kind}|FAULT", _ACT_S)
                try:
                    machine.wait_for("FAULT|the power goes", delay)
                except UnexpectedError:
                    machine.cut_power()
                self._read(machine)
            cache: Cache = "lost" if number // len(KINDS) % 2 else "kept"
            kept = self._keep(self._chance if cache == "lost" else None)
            before = (kind, round(delay, 2), self._marks.ended, cache, kept)

    def _take(
        self,
        number: int,
        kind: str,
        delay: float,
        ended: bool,
        cache: Cache,
        kept: tuple[int, int, int],
        found: dict[str, Any],
    ) -> None:
        cut = Cut(
            number=number,
            kind=kind,
            delay_s=delay,
            ended=ended,
            cache=cache,
            writes=kept[0],
            unflushed=kept[1],
            lost=kept[2],
            found=found,
            wrong=what_is_wrong(found, self._marks.sure, self._marks.begun),
        )
        self.taken.append(cut)
        self._say(cut)

    def _on(self, words: tuple[str, ...]) -> Any:
        overlay, log = self._work / "cut.qcow2", self._work / "cut.log"
        log.write_bytes(b"")
        make = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(self._image.resolve()), str(overlay)]
        subprocess.run(make, check=True)
        hardware = Hardware(
            self._disk.kernel,
            self._disk.initramfs,
            blocks(overlay, log),
            memory_mib=_MEMORY_MIB,
            words=(f"init={GUEST}/init", *words),
        )
        return booted(hardware, self._work / "console.log")

    def _keep(self, chance: random.Random | None) -> tuple[int, int, int]:
        kept = keep(self._image, self._work / "cut.log", chance)
        return kept.writes, kept.unflushed, kept.lost

    def _checked(self, machine: Booted) -> dict[str, Any]:
        said = machine.wait_for(r"CHECK (\{.*\})|FAULT (.*)", _CHECK_S)
        if said[1] is None:
            raise UnexpectedError(f"the machine: {said[2]}")
        found: dict[str, Any] = json.loads(said[1])
        return found

    def _read(self, machine: Booted) -> None:
        for line in list(machine.lines):
            if line.startswith("FAULT"):
                raise UnexpectedError(f"the machine: {line}")
            self._marks.read(line)


def summary(cuts: list[Cut]) -> Iterator[tuple[str, ...]]:
    """Rows of a table: kind, cuts, of which after its end, writes lost, faults."""
    for kind in KINDS:
        own = [cut for cut in cuts if cut.kind == kind]
        yield (
            kind,
            str(len(own)),
            str(sum(cut.ended for cut in own)),
            str(sum(cut.lost for cut in own)),
            str(sum(bool(cut.wrong) for cut in own)),
        )
