"""Every error that edgeq raises on purpose.

    EdgeqError
    ├── InputError            what the user gave cannot be used
    │   ├── ModelError        a model directory, an ONNX file, a config
    │   ├── ImageError        an image, a folder or a zip of images
    │   ├── ArtifactError     a plan, scales or bundle that is not what it says
    │   │   └── BundleError   a bundle is refused; its kinds are in edgeq.bundle.errors
    │   ├── LimitError        it would take more time or memory than untrusted input may
    │   └── PlanError         rules that match nothing, shadow each other, or ask for what cannot be
    ├── GateError             a figure is not within the bound that was asked for
    │   └── GuardError        a guard said no, and nobody allowed it
    ├── ExportError           the graph cannot be exported or folded
    │   └── ParityError       the graph made does not compute what its source computes
    ├── CalibrationError      no scale can be given to a tensor
    ├── QuantizeError         the plan cannot be put into the graph, or was not
    ├── EngineError           a backend refuses a graph or fails while running it
    │   └── DeviceLostError   the accelerator does nothing more for this process
    ├── OutOfMemoryError      memory of the machine or of the accelerator ran out
    └── OutputError           the result cannot be written: it exists, or the disk is full

All of them end the command line with no traceback; `edgeq.cli.exit_statuses` has the status of each. What libraries
raise instead of DeviceLostError and OutOfMemoryError is recognised by `edgeq.faults`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

__all__ = [
    "ArtifactError",
    "CalibrationError",
    "DeviceLostError",
    "EdgeqError",
    "EngineError",
    "ExportError",
    "GateError",
    "GuardError",
    "ImageError",
    "InputError",
    "LimitError",
    "ModelError",
    "OutOfMemoryError",
    "OutputError",
    "ParityError",
    "PlanError",
    "QuantizeError",
    "first_line",
    "shell_word",
]

_SHOWN = 300


class EdgeqError(Exception):
    """What happened, what was expected, the likely causes, and what to do next.

    Args:
        what: one sentence with the fact, naming the file, tensor or flag.
        expected: what would have been right; empty where `what` says it.
        causes: likely causes, most likely first.
        next_step: the next command or change, ready to be typed.
        passing: the same may work later with nothing changed: memory, a port, a disk or an address was not there.
    """

    def __init__(
        self,
        what: str,
        *,
        expected: str = "",
        causes: Sequence[str] = (),
        next_step: str = "",
        passing: bool = False,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.causes = tuple(causes)
        self.next_step = next_step
        self.passing = passing

    def __str__(self) -> str:
        """A few lines for a person: fact, expectation, numbered causes, next step."""
        lines = [self.what]
        if self.expected:
            lines.append(f"expected: {self.expected}")
        lines += [f"{number}. {cause}" for number, cause in enumerate(self.causes, start=1)]
        if self.next_step:
            lines.append(f"next: {self.next_step}")
        return "\n".join(lines)


class InputError(EdgeqError):
    """What the user gave cannot be used."""


class ModelError(InputError):
    """A model directory, an ONNX file or a config cannot be opened or understood."""


class ImageError(InputError):
    """An image, or a folder or zip of images, cannot be used."""


class ArtifactError(InputError):
    """A plan, scales or bundle is not what it says it is."""


class LimitError(InputError):
    """What is asked for would take more time or memory than untrusted input may."""


class PlanError(InputError):
    """A rule of a plan matches nothing, is shadowed by others, or asks for what cannot be."""


class GateError(EdgeqError):
    """A figure is not within the bound that was asked for."""


class GuardError(GateError):
    """A guard said no, and nobody allowed it."""


class ExportError(EdgeqError):
    """The graph cannot be exported or folded."""


class ParityError(ExportError):
    """The graph made does not compute what its source computes."""


class CalibrationError(EdgeqError):
    """No scale can be given to a tensor."""


class QuantizeError(EdgeqError):
    """The plan cannot be put into the graph, or what was made differs from it."""


class EngineError(EdgeqError):
    """A backend refuses a graph or fails while running it."""


class DeviceLostError(EngineError):
    """The accelerator does nothing more for this process, which calls it no more, and leaves."""


class OutOfMemoryError(EdgeqError):
    """Memory of the machine or of the accelerator ran out while something was computed."""


class OutputError(EdgeqError):
    """The result cannot be written: it exists already, or the disk is full."""


def first_line(error: Exception) -> str:
    """What an error of another library says, short enough for a cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_SHOWN]


def shell_word(value: object) -> str:
    """A path or another word as a shell takes it for one, such as in `next_step`."""
    return shlex.quote(str(value))
