"""Rehearse a device that boots: systemd, watchdog, memory, power cuts.

    python -m rehearsal.machine --demo out/demo --cuts 50 --output out/rehearsal-boot.json

As root, with Debian's packages debootstrap, qemu-user-static, qemu-system-arm and qemu-utils. docs/rehearsal.md has
what it found. All of it runs in name spaces of its own for mounts and processes, which end with it, however it ends.
Exit status: 0 all was as expected, 1 something was not, 2 it cannot be run here.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from edgeq import __version__
from edgeq.errors import EdgeqError, InputError
from rehearsal.emulation import emulated
from rehearsal.machine.cuts import Cut, Cuts, summary
from rehearsal.machine.furnish import write_material
from rehearsal.machine.image import Disk, make_disk
from rehearsal.machine.needs import require_able
from rehearsal.machine.report import LEFT_OUT, MachineReport
from rehearsal.machine.story import BootStory
from rehearsal.name_spaces import enter_name_spaces
from rehearsal.releases import require_classifier
from rehearsal.report import RehearsalStep, Steps, UnexpectedError, print_step
from rehearsal.root import base_root, this_machine
from rehearsal.stand_ins import STAND_INS

_CHECKOUT: Final = Path(__file__).resolve().parents[2]


def main(words: list[str] | None = None) -> int:
    """Rehearse; gives the exit status."""
    arguments = _arguments(words)
    try:
        require_able(arguments.cache)
        _require_demo(arguments.demo)
        enter_name_spaces("rehearsal.machine", words)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        report = _rehearse(arguments)
    except EdgeqError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report.save(arguments.output)
    _print_cuts(report)
    print(f"{'All as expected' if report.passed else 'NOT all as expected'}: {arguments.output}")
    return 0 if report.passed else 1


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rehearsal.machine", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--demo", type=Path, default=Path("out/demo"), help="what `make demo` made")
    parser.add_argument(
        "--cache", type=Path, default=Path("/var/cache/edgeq-rehearsal"), help="reused by the next one: 4 GB"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("out/rehearsal-boot.json"),
        help="the report; written after each step and cut",
    )
    parser.add_argument("--cuts", type=int, default=50, help="power cuts; 0 for none")
    parser.add_argument("--seed", type=int, default=1, help="of their moments")
    return parser.parse_args(words)


def _require_demo(demo: Path) -> None:
    require_classifier(demo / "bundle")
    for name in ("clip-model", "pairs", "captions.txt"):
        if not (demo / name).exists():
            raise InputError(f"{demo / name} is not there", next_step="make demo, or --demo DIRECTORY")


def _rehearse(arguments: argparse.Namespace) -> MachineReport:
    """Take all steps; the report is written after each step and each cut, as the whole takes hours."""
    began, cuts, disks = datetime.now(timezone.utc), list[Cut](), list[Disk]()
    cache, demo = arguments.cache.resolve(), arguments.demo.resolve()
    work = cache / "machine-work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)

    def report(*, complete: bool) -> MachineReport:
        return MachineReport(
            began=began.strftime("%Y-%m-%dT%H:%M:%SZ"),
            edgeq=__version__,
            emulator=_emulator(),
            stand_ins=STAND_INS,
            left_out=LEFT_OUT,
            steps=tuple(steps.taken),
            seed=arguments.seed,
            cuts=tuple(cuts),
            complete=complete,
            passed=complete and all(step.result == "as expected" for step in steps.taken),
        )

    def said(what: RehearsalStep | Cut) -> None:
        if isinstance(what, Cut):
            cuts.append(what)
            _print_cut(what)
        else:
            print_step(what)
        report(complete=False).save(arguments.output)

    steps = Steps(said)
    with emulated():
        if steps.take("an arm64 root", partial(base_root, cache), essential=True):
            steps.take("install.sh in it, and an ext4 image", lambda: _disk(cache, demo, work, disks), essential=True)
    for disk in disks:
        BootStory(disk, demo / "bundle", work).tell(steps)
        if arguments.cuts:
            machine = Cuts(disk, work / "cuts", arguments.seed, said)
            steps.take(f"{arguments.cuts} power cuts", partial(_cut, machine, arguments.cuts))
    return report(complete=True)


def _disk(cache: Path, demo: Path, work: Path, disks: list[Disk]) -> str:
    said = list[str]()

    def material(directory: Path, keys: Path) -> None:
        write_material(demo / "bundle", _retrieval_bundle(demo, work), demo / "pairs", directory, keys)

    disks.append(make_disk(cache, _CHECKOUT, material, said.append))
    return ", ".join(said)


def _retrieval_bundle(demo: Path, work: Path) -> Path:
    """The small CLIP that comes along, prepared."""
    words = ["prepare", str(demo / "clip-model"), "--images", str(demo / "pairs"), "--captions"]
    words += [str(demo / "captions.txt"), "--eval", str(demo / "pairs/pairs.jsonl"), "-o", str(work / "finder")]
    here = this_machine()
    done = here.run(*here.edgeq, *words)
    if done.status:
        raise UnexpectedError(f"edgeq prepare: status {done.status}: {done.said}")
    return work / "finder"


def _cut(machine: Cuts, count: int) -> str:
    took = machine.begin()
    machine.run(count)
    if wrong := [cut for cut in machine.taken if cut.wrong]:
        raise UnexpectedError(f"{len(wrong)} of {len(machine.taken)}: {wrong[0].wrong}")
    many, lost = len(machine.taken), sum(cut.lost for cut in machine.taken)
    return f"after {many} of {many} a whole version started by itself; {lost} writes were lost; uncut: " + ", ".join(
        f"{kind} {seconds:.0f} s" for kind, seconds in took.items()
    )


def _emulator() -> str:
    found = subprocess.run(["qemu-system-aarch64", "--version"], capture_output=True, text=True, check=False)
    return (found.stdout.splitlines() or ["not found"])[0]


def _print_cut(cut: Cut) -> None:
    when = f"{cut.delay_s:.1f} s after its beginning{', just ended' if cut.ended else ''}"
    print(
        f"{'FAULT' if cut.wrong else 'ok':5} cut {cut.number}: {cut.kind}, {when}; {cut.lost} writes lost {cut.wrong}",
        flush=True,
    )


def _print_cuts(report: MachineReport) -> None:
    table = Table("cut", "times", "just ended", "writes lost", "faults", title="Power cuts", title_justify="left")
    for row in summary(list(report.cuts)):
        table.add_row(*row)
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    sys.exit(main())
