"""A reader of Dockerfiles, and rules in the manner of hadolint: images are built by `make images`, not by tests."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

__all__ = ["RULES", "Dockerfile", "Instruction", "Stage", "broken_rules", "parse"]

_WORDS: Final = {
    *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "LABEL"),
    *("RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
}


@dataclass(frozen=True)
class Instruction:
    """One instruction: its word in capitals, its `--name=value` flags, and the rest as it is written."""

    line: int
    word: str
    flags: tuple[tuple[str, str], ...]
    rest: str

    def flagged(self, name: str) -> list[str]:
        """The values of a flag, which may be given more than once."""
        return [value for flag, value in self.flags if flag == name]


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next; `image` has its variables replaced."""

    name: str
    image: str
    instructions: tuple[Instruction, ...]

    def of(self, word: str) -> list[Instruction]:
        """Its instructions with this word."""
        return [instruction for instruction in self.instructions if instruction.word == word]


@dataclass(frozen=True)
class Dockerfile:
    """A whole file, and the directory that is its context."""

    stages: tuple[Stage, ...]
    context: Path
    ignore: tuple[str, ...] = ()


def parse(text: str, context: Path, ignore: str = "") -> Dockerfile:
    """Read a Dockerfile.

    Args:
        text: of the file; here-documents are not read.
        context: the directory that COPY takes from.
        ignore: text of its .dockerignore.

    Raises:
        ValueError: an instruction that Docker does not know, or one before the first FROM that is no ARG.
    """
    stages: list[Stage] = []
    found: list[Instruction] = []
    defaults: dict[str, str] = {}
    for instruction in _instructions(text):
        if instruction.word == "FROM":
            image, *named = _replaced(instruction.rest, defaults).split()
            name = named[1] if named else str(len(stages))
            found = []
            stages.append(Stage(name, image, ()))
        elif stages:
            found.append(instruction)
            stages[-1] = Stage(stages[-1].name, stages[-1].image, tuple(found))
        elif instruction.word == "ARG":
            name, _, value = instruction.rest.partition("=")
            defaults[name] = value
        else:
            raise ValueError(f"line {instruction.line}: {instruction.word} before FROM")
    lines = tuple(line for line in ignore.splitlines() if line and not line.startswith("#"))
    return Dockerfile(tuple(stages), context, lines)


def _instructions(text: str) -> Iterator[Instruction]:
    start, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        start = start if parts else number
        parts.append(line.rstrip().removesuffix("\\").strip())
        if line.rstrip().endswith("\\"):
            continue
        yield _instruction(start, " ".join(parts))
        parts = []
    if parts:
        raise ValueError(f"line {start}: it goes on, and the file ends")


def _instruction(line: int, text: str) -> Instruction:
    word, _, rest = text.partition(" ")
    if word.upper() not in _WORDS or word != word.upper():
        raise ValueError(f"line {line}: {word} is no instruction")
    flags = list[tuple[str, str]]()
    while found := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
        flags.append((found[1], found[2]))
        rest = rest[found.end() :]
    return Instruction(line, word, tuple(flags), rest.strip())


def _replaced(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda found: values.get(found[1] or found[2], found[0]), text)


def _shell(instruction: Instruction) -> list[str]:
    """The words of a RUN, with `|`, `||`, `&&` and so on as words of their own."""
    return list(shlex.shlex(instruction.rest, posix=True, punctuation_chars=True))


def _commands(instruction: Instruction) -> Iterator[list[str]]:
    """Each simple command of a RUN."""
    command: list[str] = []
    for word in [*_shell(instruction), "&&"]:
        if set(word) <= set("&|;"):
            yield command
            command = []
        else:
            command.append(word)


def _runs(stage: Stage, *start: str) -> Iterator[tuple[Instruction, list[str]]]:
    """Commands of the stage that have all the words of `start` in them."""
    for instruction in stage.of("RUN"):
        for command in _commands(instruction):
            if set(start) <= set(command):
                yield instruction, command


def base_image_is_pinned(file: Dockerfile, stage: Stage) -> Iterator[str]:
    """DL3006, DL3007: a tag with a number in it or a digest; or an earlier stage, or nothing at all."""
    earlier = [other.name for other in file.stages[: file.stages.index(stage)]]
    if stage.image in (*earlier, "scratch"):
        return
    tag = stage.image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in stage.image and not re.search(r"\d+\.\d+", tag):
        yield f"{stage.image} is not pinned to a version"


def apt_is_used_well(_file: Dockerfile, stage: Stage) -> Iterator[str]:
    """DL3009, DL3014, DL3015: update, install and tidy up in one layer, nothing more than was asked for."""
    for instruction, command in _runs(stage, "apt-get", "install"):
        missing = {"--yes", "--no-install-recommends"} - set(command)
        if missing:
            yield f"line {instruction.line}: apt-get install without {', '.join(sorted(missing))}"
        if "apt-get update" not in instruction.rest:
            yield f"line {instruction.line}: apt-get install without an update in the same layer"
        if "rm -rf /var/lib/apt/lists/*" not in instruction.rest:
            yield f"line {instruction.line}: apt's lists stay in the layer"


def nothing_is_upgraded(_file: Dockerfile, stage: Stage) -> Iterator[str]:
    """DL3005: another TensorRT or CUDA than the base image's would come."""
    for instruction, command in _runs(stage):
        if {"upgrade", "dist-upgrade", "full-upgrade"} & set(command) or command[:1] in (["apt"], ["sudo"]):
            yield f"line {instruction.line}: {' '.join(command)}"


def what_is_started_is_not_root(_file: Dockerfile, stage: Stage) -> Iterator[str]:
    """DL3002: a stage that starts something ends as a user without rights."""
    if not stage.of("CMD") and not stage.of("ENTRYPOINT"):
        return
    users = [instruction.rest for instruction in stage.of("USER")]
    if not users or users[-1].partition(":")[0] in ("root", "0"):
        yield f"stage {stage.name} starts as root"


def copied_paths_exist(file: Dockerfile, stage: Stage) -> Iterator[str]:
    """What COPY takes is in the repository and not kept out of the context; DL3020: no ADD."""
    yield from (f"line {instruction.line}: ADD; take COPY" for instruction in stage.of("ADD"))
    for instruction in stage.of("COPY"):
        if instruction.flagged("from"):
            continue
        for source in instruction.rest.split()[:-1]:
            if not (file.context / source).exists() or ".." in Path(source).parts:
                yield f"line {instruction.line}: there is no {source}"
            elif _ignored(file.ignore, source):
                yield f"line {instruction.line}: {source} is kept out by .dockerignore"


def _ignored(patterns: tuple[str, ...], source: str) -> bool:
    """Docker's rule: the last pattern that fits the path, or a directory above it, decides."""
    parents = [source, *(parent.as_posix() for parent in Path(source).parents if parent != Path())]
    kept_out = False
    for pattern in patterns:
        if any(fnmatch(path, pattern.removeprefix("!")) for path in parents):
            kept_out = not pattern.startswith("!")
    return kept_out


def other_stages_exist(file: Dockerfile, stage: Stage) -> Iterator[str]:
    """DL3022: `--from` names an earlier stage, never an image that nobody pinned.

    A named context has an empty stage of its name: where none is given, no registry is asked for an image of that name.
    """
    known = {other.name for other in file.stages[: file.stages.index(stage)]}
    for instruction in stage.instructions:
        mounts = " ".join(instruction.flagged("mount"))
        sources = [*instruction.flagged("from"), *re.findall(r"\bfrom=([^,\s]+)", mounts)]
        yield from (f"line {instruction.line}: no stage {name}" for name in sources if name not in known)


def pipes_can_fail(_file: Dockerfile, stage: Stage) -> Iterator[str]:
    """DL4006: what fails before a pipe fails the build; no pipe does, in the only shell that all engines take."""
    for instruction in stage.of("RUN"):
        if "|" in _shell(instruction):
            yield f"line {instruction.line}: a pipe"


def every_format_has_it(_file: Dockerfile, stage: Stage) -> Iterator[str]:
    """SHELL is Docker's own: in the format of OCI, which Podman and Buildah write, it is dropped with a warning."""
    yield from (f"line {instruction.line}: SHELL" for instruction in stage.of("SHELL"))


def started_without_a_shell(_file: Dockerfile, stage: Stage) -> Iterator[str]:
    """DL3025: CMD and ENTRYPOINT as JSON, so that signals arrive."""
    for instruction in [*stage.of("CMD"), *stage.of("ENTRYPOINT")]:
        try:
            words = json.loads(instruction.rest)
        except json.JSONDecodeError:
            words = None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            yield f"line {instruction.line}: {instruction.word} {instruction.rest} is not JSON"


def downloads_are_bounded(_file: Dockerfile, stage: Stage) -> Iterator[str]:
    """DL3042: no cache of pip's in a layer; a clone is of one tag."""
    for instruction, command in _runs(stage, "pip"):
        if {"install", "wheel"} & set(command) and "--no-cache-dir" not in command:
            yield f"line {instruction.line}: pip without --no-cache-dir"
    for instruction, command in _runs(stage, "git", "clone"):
        if not {"--branch", "--depth"} <= set(command):
            yield f"line {instruction.line}: a clone of no certain tag"


def directories_are_whole_paths(_file: Dockerfile, stage: Stage) -> Iterator[str]:
    """DL3000: WORKDIR."""
    for instruction in stage.of("WORKDIR"):
        if not instruction.rest.startswith("/"):
            yield f"line {instruction.line}: WORKDIR {instruction.rest}"


def variables_are_declared(_file: Dockerfile, stage: Stage) -> Iterator[str]:
    """A `${NAME}` that no ARG or ENV of the stage sets is empty, and nobody says so."""
    known = {re.split(r"[= ]", instruction.rest)[0] for word in ("ARG", "ENV") for instruction in stage.of(word)}
    for instruction in stage.of("RUN"):
        unknown = sorted(set(re.findall(r"\$\{(\w+)\}", instruction.rest)) - known)
        yield from (f"line {instruction.line}: {name} is not declared" for name in unknown)


RULES: Final[tuple[Callable[[Dockerfile, Stage], Iterator[str]], ...]] = (
    base_image_is_pinned,
    apt_is_used_well,
    nothing_is_upgraded,
    what_is_started_is_not_root,
    copied_paths_exist,
    other_stages_exist,
    pipes_can_fail,
    every_format_has_it,
    started_without_a_shell,
    downloads_are_bounded,
    directories_are_whole_paths,
    variables_are_declared,
)


def broken_rules(file: Dockerfile) -> list[str]:
    """Every message of every rule, with the rule's name before it."""
    return [f"{rule.__name__}: {message}" for stage in file.stages for rule in RULES for message in rule(file, stage)]
