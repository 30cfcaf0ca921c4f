"""Artifacts that hold the figures of a task, each in its place; readers ask for the headline and the rows alone."""

from __future__ import annotations

from typing import Any, Final

from pydantic import SerializerFunctionWrapHandler, model_serializer

from edgeq.artifact import Artifact
from edgeq.quality.tasks.base import Figures, Headline

__all__ = ["Judged"]

_PLACES: Final = ("answers", "fidelity", "figures")
_LATER: Final = ("figures", "further")


class Judged(Artifact):
    """An artifact with the fields `answers`, `fidelity` and `figures`, of which at most one is not None.

    `figures` and `further` came later than version 1 of these artifacts, and are not written where they are empty.
    """

    @property
    def judged(self) -> Figures | None:
        """What the comparison found; None where none was made."""
        found: Figures | None = next((value for name in _PLACES if (value := getattr(self, name)) is not None), None)
        return found

    @property
    def headline(self) -> Headline | None:
        """The one figure that decides; None where nothing was compared."""
        return None if self.judged is None else self.judged.headline()

    @model_serializer(mode="wrap")
    def _without_empty_figures(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if value or name not in _LATER}
