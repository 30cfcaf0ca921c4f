"""Rehearse a device on an emulated arm64 machine.

    python -m rehearsal --bundle out/demo/bundle --output out/rehearsal.json

As root, with Debian's packages debootstrap and qemu-user-static. docs/rehearsal.md has what it found. All of it runs in
name spaces of its own for mounts and processes, which end with it, however it ends. Exit status: 0 all was as expected,
1 something was not, 2 it cannot be run here.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console
from rich.table import Table

from edgeq import __version__
from edgeq.errors import EdgeqError
from rehearsal.emulation import emulated
from rehearsal.needs import require_able
from rehearsal.releases import make_releases, require_classifier
from rehearsal.report import Difference, RehearsalReport, RehearsalStep, Steps
from rehearsal.root import base_root, emulated_machine, fresh_root, mounted, this_machine
from rehearsal.stand_ins import STAND_INS, place_stand_ins
from rehearsal.story import PACKAGES, Story

_CHECKOUT: Final = Path(__file__).resolve().parents[1]
_INSIDE: Final = "EDGEQ_REHEARSAL_INSIDE"
_LEFT_OUT: Final = (
    "the GPU, CUDA and TensorRT",
    "torch, bitsandbytes and its build on the board, and with them vision-language bundles",
    "a kernel and systemd of its own: the unit is checked and its command run, and systemd does not run it",
    "a power cut's lost writes: processes are killed, and the file system goes on",
    "/sys, and the processor's own /proc/cpuinfo: this machine's are those of another processor",
    "JetPack's Ubuntu with Python 3.10 or 3.12: Debian's is another",
)


def main(words: list[str] | None = None) -> int:
    """Rehearse; gives the exit status."""
    arguments = _arguments(words)
    try:
        require_able()
        require_classifier(arguments.bundle)
        if _INSIDE not in os.environ:
            _enter_name_spaces(sys.argv[1:] if words is None else words)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        with emulated():
            report = _rehearse(arguments.bundle.resolve(), arguments.cache.resolve())
    except EdgeqError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report.save(arguments.output)
    _print_differences(report)
    print(f"{'All as expected' if report.passed else 'NOT all as expected'}: {arguments.output}")
    return 0 if report.passed else 1


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rehearsal", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=Path("out/demo/bundle"), help="a classifier's bundle")
    parser.add_argument("--cache", type=Path, default=Path("/var/cache/edgeq-rehearsal"), help="kept: 1 GB")
    parser.add_argument("--output", type=Path, default=Path("out/rehearsal.json"), help="the report; it is replaced")
    return parser.parse_args(words)


def _enter_name_spaces(words: list[str]) -> NoReturn:
    """Start again, with mounts and processes that end when the first of these processes does."""
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.environ[_INSIDE] = "1"
    os.execvp(unshare[0], [*unshare, sys.executable, "-m", "rehearsal", *words])


def _rehearse(bundle: Path, cache: Path) -> RehearsalReport:
    began, steps, root, work = datetime.now(timezone.utc), Steps(_print_step), cache / "root", cache / "work"
    machines, differences = {"here": _here()}, list[Difference]()
    steps.take("an arm64 root", lambda: base_root(cache), essential=True)
    if steps.take("a copy of it", lambda: f"in {fresh_root(cache).name}", essential=True):
        shutil.rmtree(work, ignore_errors=True)
        releases = make_releases(bundle, work / "releases")
        with mounted(root, cache / "pip"):
            device = emulated_machine(root)
            steps.take("stand-ins for what is NVIDIA's", lambda: place_stand_ins(root), essential=True)
            story = Story(device, this_machine(), bundle, releases, _CHECKOUT, work)
            story.tell(steps)
            machines["arm64"], differences = story.versions, story.differences
    return RehearsalReport(
        began=began.strftime("%Y-%m-%dT%H:%M:%SZ"),
        edgeq=__version__,
        machines=machines,
        stand_ins=STAND_INS,
        left_out=_LEFT_OUT,
        steps=tuple(steps.taken),
        differences=tuple(differences),
        passed=all(step.result == "as expected" for step in steps.taken),
    )


def _here() -> dict[str, str]:
    emulator = subprocess.run(["qemu-aarch64-static", "--version"], capture_output=True, text=True, check=False)
    return {
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "emulator": (emulator.stdout.splitlines() or ["not found"])[0],
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _print_step(step: RehearsalStep) -> None:
    mark = {"as expected": "ok", "not as expected": "FAULT", "not run": "-"}[step.result]
    print(f"{mark:5} {step.seconds:7.1f} s  {step.name}: {step.seen}", flush=True)


def _print_differences(report: RehearsalReport) -> None:
    table = Table("", "here", "arm64", "apart", "bound", "", title="This machine and arm64", title_justify="left")
    for each in report.differences:
        figures = ("" if value is None else f"{value:.1e}" for value in (each.measured, each.bound))
        table.add_row(each.what, each.here, each.arm64, *figures, "" if each.within else "BEYOND")
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    sys.exit(main())
