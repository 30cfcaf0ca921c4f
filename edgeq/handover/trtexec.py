"""TensorRT's own command line: a line for each graph, types as the graph has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Final

from edgeq.errors import shell_word
from edgeq.handover.base import HandOver, Subject
from edgeq.tensorrt.settings import BuildSettings

__all__ = ["script", "trtexec"]

_SCRIPT: Final = "build.sh"
_HEAD: Final = """#!/bin/sh
# Builds engines with TensorRT's own command line, on the device that will run them. No precision flag: a strongly typed
# network computes in the types that its graph has.
set -eu
cd "$(dirname "$0")"
"""


def trtexec(subject: Subject) -> HandOver:
    """A script with the lines, beside the graphs."""
    graphs = {PurePosixPath(build.graph): build for build in subject.builds}
    lines = [line(build, str(path), f"{path.with_suffix('')}.plan") for path, build in graphs.items()]
    copies = {name: name for build in subject.builds for name in with_data(build.graph, subject.digests)}
    return HandOver({_SCRIPT: script(lines)}, copies)


def script(lines: Iterable[str]) -> str:
    """A shell script of some lines of trtexec."""
    return _HEAD + "".join(f"\n{each}\n" for each in lines)


def line(build: BuildSettings, graph: str, engine: str) -> str:
    """The line that builds one engine.

    Args:
        build: what a builder is told.
        graph: its ONNX file.
        engine: the file that is written.
    """
    words = [
        "trtexec",
        f"--onnx={shell_word(graph)}",
        f"--saveEngine={shell_word(engine)}",
        "--stronglyTyped",
        "--noTF32",
    ]
    words += [f"--memPoolSize=workspace:{build.workspace_bytes >> 20}M", *_profiles(build)]
    return " \\\n  ".join(words)


def _profiles(build: BuildSettings) -> Iterator[str]:
    """Shapes by profile: of an input with several ranges, each is of a profile of its own."""
    inputs = dict.fromkeys(each.input for each in build.profile)
    ranges = {name: [each for each in build.profile if each.input == name] for name in inputs}
    count = max((len(each) for each in ranges.values()), default=0)
    for number in range(count):
        if count > 1:
            yield f"--profile={number}"
        for bound in ("min", "opt", "max"):
            shapes = {name: getattr(each[min(number, len(each) - 1)], bound) for name, each in ranges.items()}
            yield f"--{bound}Shapes={','.join(f'{shell_word(name)}:{_by(shape)}' for name, shape in shapes.items())}"


def _by(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def with_data(graph: str, digests: Iterable[str]) -> Iterator[str]:
    """A graph's file, and that of its weights where they are outside."""
    yield from (name for name in (graph, f"{graph}.data") if name in digests)
