"""What a rehearsal found: its steps, what was a stand-in, and how arm64 differs from this machine."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.artifact import Artifact
from edgeq.errors import EdgeqError

__all__ = ["Difference", "RehearsalReport", "RehearsalStep", "StandIn", "Steps", "UnexpectedError", "print_step"]

Result = Literal["as expected", "not as expected", "not run"]

_SEEN_CHARACTERS = 400


class UnexpectedError(Exception):
    """A step did not do what it should; its text says what it did."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RehearsalStep(_Frozen):
    """One step.

    Attributes:
        name: what was done.
        result: of it.
        seen: what it said or gave, in a few words.
        seconds: that it took.
    """

    name: str
    result: Result
    seen: str
    seconds: float


class StandIn(_Frozen):
    """What is NVIDIA's, and was not there.

    Attributes:
        name: of the file or the package.
        instead_of: what it stood for.
        does: what it did, and no more.
    """

    name: str
    instead_of: str
    does: str


class Difference(_Frozen):
    """One thing that was measured on both machines.

    Attributes:
        what: was measured.
        here, arm64: its values, in words.
        measured: how far they are apart; None where there is no figure.
        bound: the most that it may be.
        within: whether it is.
    """

    what: str
    here: str
    arm64: str
    measured: float | None = None
    bound: float | None = None
    within: bool = True


class RehearsalReport(Artifact):
    """All of a rehearsal.

    Attributes:
        began: UTC.
        edgeq: its version.
        machines: what ran it: of this machine and of the emulated one, names and versions.
        stand_ins: for what is NVIDIA's.
        left_out: what a device has, and this rehearsal does not.
        steps: in their order.
        differences: between this machine and the emulated one.
        passed: every step was as expected, and every difference within its bound.
    """

    otherwise: ClassVar[str] = "is no report of a rehearsal"
    made_by: ClassVar[str] = "make rehearse"

    version: Literal["edgeq.rehearsal/1"] = "edgeq.rehearsal/1"
    began: str
    edgeq: str
    machines: dict[str, dict[str, str]]
    stand_ins: tuple[StandIn, ...]
    left_out: tuple[str, ...]
    steps: tuple[RehearsalStep, ...]
    differences: tuple[Difference, ...]
    passed: bool


def print_step(step: RehearsalStep) -> None:
    """A line on stdout."""
    mark = {"as expected": "ok", "not as expected": "FAULT", "not run": "-"}[step.result]
    print(f"{mark:5} {step.seconds:7.1f} s  {step.name}: {step.seen}", flush=True)


class Steps:
    """Takes one step after the other, and says each as soon as it is over.

    Args:
        say: called with each step.
    """

    def __init__(self, say: Callable[[RehearsalStep], None]) -> None:
        self._say = say
        self._ended = False
        self.taken: list[RehearsalStep] = []

    def take(self, name: str, act: Callable[[], str], *, essential: bool = False) -> bool:
        """Take a step.

        Args:
            name: of it.
            act: does it, and gives what was seen; raises UnexpectedError.
            essential: without it no later step is run.

        Returns:
            Whether it was as expected.
        """
        begin = time.monotonic()
        result: Result = "not run"
        seen = ""
        if not self._ended:
            try:
                seen, result = act(), "as expected"
            except (UnexpectedError, EdgeqError, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
                seen, result = f"{type(error).__name__}: {error}", "not as expected"
                self._ended = essential
        seen = " ".join(seen.split())[:_SEEN_CHARACTERS]
        step = RehearsalStep(name=name, result=result, seen=seen, seconds=round(time.monotonic() - begin, 1))
        self.taken.append(step)
        self._say(step)
        return result == "as expected"
