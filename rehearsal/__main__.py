"""Rehearse a device on an emulated arm64 machine.

    python -m rehearsal --bundle out/demo/bundle --output out/rehearsal.json

As root, with Debian's packages debootstrap and qemu-user-static. docs/rehearsal.md has what it found. All of it runs in
name spaces of its own for mounts and processes, which end with it, however it ends. Exit status: 0 all was as expected,
1 something was not, 2 it cannot be run here.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from edgeq import __version__
from edgeq.errors import EdgeqError
from rehearsal.emulation import emulated
from rehearsal.language import LANGUAGE_PACKAGES, LanguageStory
from rehearsal.name_spaces import enter_name_spaces
from rehearsal.needs import require_able
from rehearsal.releases import make_release, make_releases, require_classifier, require_vision_language
from rehearsal.report import Difference, RehearsalReport, Steps, print_step
from rehearsal.root import base_root, emulated_machine, fresh_root, mounted, this_machine
from rehearsal.stand_ins import STAND_INS, place_stand_ins
from rehearsal.story import PACKAGES, Story
from rehearsal.wheels import TORCH, language_wheels

_CHECKOUT: Final = Path(__file__).resolve().parents[1]
_NO_LANGUAGE: Final = "torch, bitsandbytes and vision-language bundles: --stories classifier language"
_LEFT_OUT: Final = (
    "the GPU, CUDA and TensorRT",
    "bitsandbytes' build on the board, and its kernels for the GPU",
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
        if "classifier" in arguments.stories:
            require_classifier(arguments.bundle)
        if "language" in arguments.stories:
            require_vision_language(arguments.vlm_bundle)
        enter_name_spaces("rehearsal", words)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        with emulated():
            report = _rehearse(arguments)
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
    parser.add_argument(
        "--stories",
        nargs="+",
        choices=("classifier", "language"),
        default=["classifier"],
        help="language: torch, bitsandbytes and a vision-language bundle, on a device of its own; a half hour more",
    )
    parser.add_argument("--vlm-bundle", type=Path, default=Path("out/demo/vlm-bundle"), help="a vision-language bundle")
    parser.add_argument("--torch", default=TORCH, help=f"its release, for the language model ({TORCH})")
    parser.add_argument(
        "--cache", type=Path, default=Path("/var/cache/edgeq-rehearsal"), help="reused by the next one: 1 GB"
    )
    parser.add_argument("--output", type=Path, default=Path("out/rehearsal.json"), help="the report; it is replaced")
    return parser.parse_args(words)


def _rehearse(arguments: argparse.Namespace) -> RehearsalReport:
    began, steps = datetime.now(timezone.utc), Steps(print_step)
    cache, stories = arguments.cache.resolve(), tuple(dict.fromkeys(arguments.stories))
    machines, differences = {"here": _here(stories)}, list[Difference]()
    steps.take("an arm64 root", lambda: base_root(cache), essential=True)
    shutil.rmtree(cache / "work", ignore_errors=True)
    for name in stories:
        if not steps.take(f"{name}: a copy of it", lambda: f"in {fresh_root(cache).name}", essential=True):
            break
        with mounted(cache / "root", cache / "pip"):
            story = _prepared(name, arguments, cache, steps)
            if story is not None:
                story.tell(steps)
                machines[f"arm64, {name}"] = story.versions
                differences += story.differences
    return RehearsalReport(
        began=began.strftime("%Y-%m-%dT%H:%M:%SZ"),
        edgeq=__version__,
        machines=machines,
        stand_ins=STAND_INS,
        left_out=_LEFT_OUT if "language" in stories else (_NO_LANGUAGE, *_LEFT_OUT),
        steps=tuple(steps.taken),
        differences=tuple(differences),
        passed=all(step.result == "as expected" for step in steps.taken),
    )


def _prepared(name: str, arguments: argparse.Namespace, cache: Path, steps: Steps) -> Story | LanguageStory | None:
    """The story, ready to be told; None where what it needs could not be made."""
    device, work = emulated_machine(cache / "root"), cache / "work"
    if not steps.take(
        f"{name}: stand-ins for what is NVIDIA's", lambda: place_stand_ins(cache / "root"), essential=True
    ):
        return None
    if name == "classifier":
        bundle = arguments.bundle.resolve()
        releases = make_releases(bundle, work / "releases")
        return Story(device, this_machine(), bundle, releases, _CHECKOUT, work)
    bundle, wheels = arguments.vlm_bundle.resolve(), cache / f"wheels-torch-{arguments.torch}"
    wheels.mkdir(parents=True, exist_ok=True)
    if not steps.take(
        "language: wheels for arm64", lambda: language_wheels(wheels, _CHECKOUT, arguments.torch), essential=True
    ):
        return None
    release = make_release(bundle, work / "language")
    return LanguageStory(device, this_machine(), bundle, release, wheels, _CHECKOUT, work)


def _here(stories: Sequence[str]) -> dict[str, str]:
    packages = (*PACKAGES, *(LANGUAGE_PACKAGES if "language" in stories else ()))
    emulator = subprocess.run(["qemu-aarch64-static", "--version"], capture_output=True, text=True, check=False)
    return {
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "emulator": (emulator.stdout.splitlines() or ["not found"])[0],
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _print_differences(report: RehearsalReport) -> None:
    table = Table("", "here", "arm64", "apart", "bound", "", title="This machine and arm64", title_justify="left")
    for each in report.differences:
        figures = ("" if value is None else f"{value:.1e}" for value in (each.measured, each.bound))
        table.add_row(each.what, each.here, each.arm64, *figures, "" if each.within else "BEYOND")
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    sys.exit(main())
