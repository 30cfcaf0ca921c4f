"""Docker or Podman: whichever builds and runs images here."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rehearsal.report import UnexpectedError

__all__ = ["ContainerEngine", "ImageFacts", "find_engine", "lacking"]

_HYBRID: Final = Path("/sys/fs/cgroup/unified")
"""There, where control groups of both versions are mounted at once; crun, Podman's usual runtime, refuses that."""
_PROBE_S: Final = 30
_SAID_LINES: Final = 6


@dataclass(frozen=True)
class ImageFacts:
    """What an engine says of an image.

    Attributes:
        bytes: of its layers together, unpacked.
        layers: how many.
        user: that its processes are of; empty for root.
        entrypoint, command: what is started.
        own_layers: bytes of each layer that is not empty, the last one first, with the instruction that made it.
    """

    bytes: int
    layers: int
    user: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    own_layers: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class ContainerEngine:
    """A program with Docker's command line.

    Attributes:
        name: `docker` or `podman`.
        program: how it is called, with what goes before every verb.
        building, running: further words after `build` and `run`.
    """

    name: str
    program: tuple[str, ...]
    building: tuple[str, ...] = ()
    running: tuple[str, ...] = ()

    def call(self, *words: str, seconds: float = 1800, stdin: Path | None = None) -> str:
        """Run it to its end; gives what it wrote to stdout.

        Raises:
            UnexpectedError: its status is not 0.
            subprocess.TimeoutExpired: it took longer than `seconds`.
        """
        with (stdin or Path("/dev/null")).open("rb") as given:
            done = subprocess.run(
                [*self.program, *words], stdin=given, capture_output=True, timeout=seconds, check=False
            )
        out, err = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
        if done.returncode:
            said = " ".join((err.strip() or out.strip()).splitlines()[-_SAID_LINES:])
            raise UnexpectedError(f"{self.name} {words[0]} ended with status {done.returncode}: {said}")
        return out

    def version(self) -> str:
        """Of the program."""
        return self.call("--version", seconds=_PROBE_S).strip()

    def build(
        self, file: Path, target: str, tag: str, arguments: Mapping[str, str], contexts: Mapping[str, Path]
    ) -> str:
        """Build one stage of a Dockerfile; gives the last line that was said.

        Args:
            file: in the folder `docker` of the context.
            target: name of the stage.
            tag: that the image gets.
            arguments: for ARG.
            contexts: named ones, for `--from` and for mounts.
        """
        words = ["build", *self.building, "--file", str(file), "--target", target, "--tag", tag]
        words += [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        words += [word for name, place in contexts.items() for word in ("--build-context", f"{name}={place}")]
        return self.call(*words, str(file.parents[1]), seconds=7200).strip()

    def run(self, tag: str, flags: Sequence[str], *command: str, seconds: float = 3600) -> str:
        """Run a container to its end, and remove it; gives what it wrote to stdout."""
        return self.call("run", "--rm", *self.running, *flags, tag, *command, seconds=seconds)

    def start(self, tag: str, flags: Sequence[str], *command: str) -> str:
        """Start a container that goes on; gives its number."""
        return self.call("run", "--detach", *self.running, *flags, tag, *command).strip()

    def inspect(self, what: str) -> dict[str, Any]:
        """All that it knows of an image or a container."""
        (found,) = json.loads(self.call("inspect", what))
        return dict(found)

    def facts(self, tag: str) -> ImageFacts:
        """Of an image."""
        found = self.inspect(tag)
        settings: dict[str, Any] = found["Config"]
        return ImageFacts(
            bytes=int(found["Size"]),
            layers=len(found["RootFS"]["Layers"]),
            user=str(settings.get("User") or ""),
            entrypoint=tuple(settings.get("Entrypoint") or ()),
            command=tuple(settings.get("Cmd") or ()),
            own_layers=tuple((size, " ".join(made.split())) for size, made in self._history(tag) if size),
        )

    def _history(self, tag: str) -> list[tuple[int, str]]:
        if self.name == "podman":  # with --format it knows sizes in words alone
            lines = json.loads(self.call("history", "--no-trunc", "--format", "json", tag))
            return [(int(line["size"]), str(line["CreatedBy"])) for line in lines]
        said = self.call("history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", tag)
        return [(int(size), made) for size, _, made in (line.partition("\t") for line in said.splitlines())]


def find_engine(
    storage: Path, found: Callable[[str], str | None], answers: Callable[[Sequence[str]], bool]
) -> ContainerEngine | None:
    """The engine to take: Docker where its daemon answers, else Podman; None where there is neither.

    Args:
        storage: where Podman keeps images, apart from those that it has otherwise.
        found: gives a program's file, or None.
        answers: whether a command ends with 0.
    """
    if found("docker") and answers(("docker", "buildx", "version")) and answers(("docker", "info")):
        return ContainerEngine("docker", ("docker",), building=("--load", "--network", "host"))
    if not found("podman"):
        return None
    # More than this process may have is refused where root has not all rights of root.
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = ("--ulimit", f"nofile={files}:{files}")
    program = ["podman", "--root", str(storage / "images"), "--runroot", str(storage / "run")]
    program += ["--cgroup-manager", "cgroupfs", *(("--runtime", "runc") if _HYBRID.exists() else ())]
    return ContainerEngine(
        "podman",
        tuple(program),
        building=("--network", "host", "--isolation", "chroot", *limit),
        # Without --read-only-tmpfs=false, Podman puts a writable file system in more places than Docker does.
        running=(*limit, "--ulimit", "nproc=4096:4096", "--read-only-tmpfs=false"),
    )


def lacking(
    engine: ContainerEngine | None, user: int, found: Callable[[str], str | None]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is not there, a sentence each, and the Debian packages that bring it."""
    sentences, packages = list[str](), list[str]()
    if user != 0:
        sentences.append("this user is not root: a Debian is made, and owners are set")
    if engine is None:
        sentences.append(
            "no engine is here that builds and runs images: neither Docker with a daemon and buildx, nor Podman"
        )
        packages += ["podman", "runc"]
    elif "runc" in engine.program and found("runc") is None:
        sentences.append(
            "runc is not installed: crun refuses control groups of both versions at once, as they are here"
        )
        packages.append("runc")
    if found("debootstrap") is None:
        sentences.append("debootstrap is not installed: the stand-in for the base images is made with it")
        packages.append("debootstrap")
    return tuple(sentences), tuple(packages)
