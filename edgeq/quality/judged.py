"""Artifacts that hold the figures of a task, each in its place; readers ask for the headline and the rows alone."""

from __future__ import annotations

from typing import ClassVar, Final

from edgeq.artifact import Artifact
from edgeq.quality.tasks.base import Figures, Headline

__all__ = ["Judged"]

_PLACES: Final = ("answers", "fidelity", "figures")


class Judged(Artifact):
    """An artifact with the fields `answers`, `fidelity` and `figures`, of which at most one is not None."""

    later: ClassVar[tuple[str, ...]] = ("figures",)

    @property
    def judged(self) -> Figures | None:
        """What the comparison found; None where none was made."""
        found: Figures | None = next((value for name in _PLACES if (value := getattr(self, name)) is not None), None)
        return found

    @property
    def headline(self) -> Headline | None:
        """The one figure that decides; None where nothing was compared."""
        return None if self.judged is None else self.judged.headline()
