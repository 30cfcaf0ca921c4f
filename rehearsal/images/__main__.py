"""Build the container images, and run them.

    python -m rehearsal.images --output out/images.json

As root, with Docker or Podman and Debian's debootstrap. docker/README.md has what it found. Exit status: 0 all was as
expected, 1 something was not, 2 it cannot be done here.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from edgeq import __version__
from edgeq.errors import EdgeqError, InputError
from rehearsal.images.base import STAND_INS
from rehearsal.images.compose import NOT_HERE
from rehearsal.images.engine import ContainerEngine, find_engine, lacking
from rehearsal.images.report import ImagesReport
from rehearsal.images.story import ImagesStory
from rehearsal.report import Steps, print_step

_PROBE_S: Final = 30
_LEFT_OUT: Final = (
    "workshop.Dockerfile, stage tensorrt: NVIDIA's base",
    "device.Dockerfile, stage bitsandbytes-build: CUDA's compiler",
    "TensorRT in the device image: it is NVIDIA's base that has it",
    "a vision-language model in an image; an image for arm64",
    f"of compose.yaml: {', '.join(NOT_HERE)}",
)


def main(words: list[str] | None = None) -> int:
    """Build and run; gives the exit status."""
    arguments = _arguments(words)
    cache: Path = arguments.cache.resolve()
    try:
        engine = _able_engine(cache)
        report = _build_and_run(engine, cache)
    except EdgeqError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    report.save(arguments.output)
    _print_images(report)
    print(f"{'All as expected' if report.passed else 'NOT all as expected'}: {arguments.output}")
    return 0 if report.passed else 1


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rehearsal.images", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--cache", type=Path, default=Path("/var/cache/edgeq-images"), help="reused by the next one: 6 GB"
    )
    parser.add_argument("--output", type=Path, default=Path("out/images.json"), help="the report; it is replaced")
    return parser.parse_args(words)


def _able_engine(cache: Path) -> ContainerEngine:
    engine = find_engine(cache, shutil.which, _answers)
    sentences, packages = lacking(engine, os.geteuid(), shutil.which)
    if engine is not None and not sentences:
        return engine
    step = f"as root: apt-get install {' '.join(packages)}" if packages else "run it as root"
    raise InputError("this machine cannot build the images", causes=sentences, next_step=step)


def _answers(command: Sequence[str]) -> bool:
    try:
        return not subprocess.run(command, capture_output=True, timeout=_PROBE_S, check=False).returncode
    except subprocess.TimeoutExpired:
        return False


def _build_and_run(engine: ContainerEngine, cache: Path) -> ImagesReport:
    began, steps, work = datetime.now(timezone.utc), Steps(print_step), cache / "work"
    shutil.rmtree(work, ignore_errors=True)
    story = ImagesStory(engine, cache, work)
    story.tell(steps)
    return ImagesReport(
        began=began.strftime("%Y-%m-%dT%H:%M:%SZ"),
        edgeq=__version__,
        machine={"architecture": platform.machine(), "kernel": platform.release(), "engine": engine.version()},
        stand_ins=STAND_INS,
        left_out=_LEFT_OUT,
        images=tuple(story.images),
        steps=tuple(steps.taken),
        passed=all(step.result == "as expected" for step in steps.taken),
    )


def _print_images(report: ImagesReport) -> None:
    table = Table("image", "size", "of it the base", "layers", "user", "starts", title="Images", title_justify="left")
    for image in report.images:
        sizes = (f"{size / 1e9:.2f} GB" for size in (image.bytes, image.base_bytes))
        table.add_row(image.name, *sizes, str(image.layers), image.user, " ".join((*image.entrypoint, *image.command)))
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    sys.exit(main())
