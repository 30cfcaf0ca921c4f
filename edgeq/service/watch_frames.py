"""Reports on frames: what `edgeq watch` makes of a film or a camera."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Literal

from edgeq.errors import EdgeqError
from edgeq.frames.base import FrameSource
from edgeq.frames.looking import FrameCounts, Looked, Looking, LookingOptions
from edgeq.frames.outlets import Outlets
from edgeq.frames.report import FrameFailure, FramePlace, place_of
from edgeq.service.draw_seen import draw_seen
from edgeq.service.watch_inference import Look, Seen

__all__ = ["FrameReport", "WatchFrames"]


class FrameReport(FramePlace):
    """What is on a frame.

    Attributes:
        model: that looked at it.
        seen: what it saw.
    """

    version: Literal["edgeq.frame-report/1"] = "edgeq.frame-report/1"
    model: str
    seen: Seen


class WatchFrames:
    """Looks at frames of a source, and writes what comes of them.

    Args:
        source: of frames.
        look: looks at one image.
        model: its name.
        options: what is looked at.
        outlets: where reports go to.
        say: told in a sentence what a person should know.
    """

    def __init__(
        self,
        source: FrameSource,
        look: Look,
        model: str,
        options: LookingOptions,
        *,
        outlets: Outlets,
        say: Callable[[str], None],
    ) -> None:
        self._source, self._model, self._outlets = source, model, outlets
        self._looking = Looking(source, look, options, say)

    @property
    def counts(self) -> FrameCounts:
        """So far."""
        return self._looking.counts

    def reports(self, *, for_people: bool) -> Iterator[FrameReport | FrameFailure]:
        """Each report once it was written.

        Args:
            for_people: a line for each goes to stdout.

        Raises:
            OutputError: a report cannot be written.
            DeviceLostError, InputError: as for `edgeq.frames.looking.Looking`.
        """
        with closing(iter(self._looking)) as found:
            for looked in found:
                report = self._report(looked)
                self._outlets.report(report.model_dump_json(), _sentence(report) if for_people else None)
                if self._outlets.draws and looked.image is not None:
                    seen = report.seen if isinstance(report, FrameReport) else None
                    self._outlets.draw(draw_seen(looked.image, seen), looked.shown_at)
                yield report

    def _report(self, looked: Looked[Seen]) -> FrameReport | FrameFailure:
        place = place_of(self._source.name, looked)
        if isinstance(looked.answer, EdgeqError):
            return FrameFailure(**place, reason=str(looked.answer))
        return FrameReport(**place, model=self._model, seen=looked.answer)


def _sentence(report: FrameReport | FrameFailure) -> str:
    if isinstance(report, FrameFailure):
        return f"{report.where}: failed: {report.reason.splitlines()[0]}"
    return f"{report.where}: {report.seen.model_dump_json()}"
