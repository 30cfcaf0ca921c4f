"""Artifacts that hold the figures of a task, each in its place; readers ask for the headline and the rows alone."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from pydantic import SerializerFunctionWrapHandler, model_serializer

from edgeq.artifact import Artifact
from edgeq.quality.tasks.base import Figures, Headline

__all__ = ["Judged"]

_PLACES: Final = ("answers", "fidelity", "figures")


class Judged(Artifact):
    """An artifact with the fields `answers`, `fidelity` and `figures`, of which at most one is not None.

    Attributes:
        later: fields that came later than version 1 of these artifacts; they are not written where they have their
            default.
    """

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

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields, values = type(self).model_fields, handler(self)
        unused = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in values.items() if name not in unused}
