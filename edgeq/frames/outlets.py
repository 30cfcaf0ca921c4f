"""Where reports go to: JSON lines, a hook, an overlay video."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final

from PIL import Image

from edgeq.errors import OutputError
from edgeq.frames.hook import Hook
from edgeq.frames.lines import LineFile
from edgeq.frames.overlay import Overlay
from edgeq.frames.report import LINE_BEGINS

__all__ = ["STDOUT", "Outlets"]

STDOUT: Final = "-"
"""In the place of a file of lines."""


class Outlets:
    """Opened at once, so that what can never be written is refused before any work; a `with` block ends them.

    An overlay that cannot be written any more is told of and left; the reports go on, and `failure` holds the error.

    Args:
        lines: a file that JSON lines are added to, `-` for stdout, or None.
        overlay: a video to make, or None.
        on_report: a command or URL, or None.
        say: told in a sentence what goes wrong.
        print_line: prints a line on stdout.

    Raises:
        InputError, OutputError: one of them can never be used.
    """

    def __init__(
        self,
        *,
        lines: str | None,
        overlay: Path | None,
        on_report: str | None,
        say: Callable[[str], None],
        print_line: Callable[[str], None],
    ) -> None:
        self._say, self._print = say, print_line
        self._to_stdout = lines == STDOUT
        self._lines: LineFile | None = None
        self.failure: OutputError | None = None
        with ExitStack() as stack:
            self._overlay = None if overlay is None else stack.enter_context(Overlay(overlay))
            if lines is not None and not self._to_stdout:
                self._lines = stack.enter_context(LineFile(Path(lines), LINE_BEGINS))
            self.hook = None if on_report is None else stack.enter_context(Hook(on_report, say))
            self._stack = stack.pop_all()

    @property
    def draws(self) -> bool:
        """Whether images are wanted."""
        return self._overlay is not None

    def __enter__(self) -> Outlets:
        """Themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them all."""
        self._stack.__exit__(kind, error, trace)

    def report(self, text: str, for_people: str | None) -> None:
        """Write a report.

        Args:
            text: as JSON on one line.
            for_people: printed on stdout where the JSON is not; None prints nothing.

        Raises:
            OutputError: the line cannot be written.
        """
        if self._lines is not None:
            self._lines.write(text)
        if self._to_stdout:
            self._print(text)
        elif for_people is not None:
            self._print(for_people)
        if self.hook is not None:
            self.hook.send(text)

    def draw(self, image: Image.Image, seconds: float) -> None:
        """Add a frame to the overlay video.

        Args:
            image: with what was drawn on it, in mode RGB.
            seconds: of it, of any clock.
        """
        if self._overlay is None:
            return
        try:
            self._overlay.add(image, seconds)
        except OutputError as error:
            self._say(f"{error.what}; the reports go on without it")
            self.failure, overlay, self._overlay = error, self._overlay, None
            overlay.give_up()
