"""What is written of a frame: where it stands, when it came, how long its answer took."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.frames.looking import Looked

__all__ = ["LINE_BEGINS", "FrameFailure", "FramePlace", "place_of"]

LINE_BEGINS = '{"version":"edgeq.'
"""Every line of a file of reports begins so."""


class FramePlace(BaseModel):
    """Which frame it is; what reports on frames have in common.

    Attributes:
        version: of the line.
        source: without user, password and query.
        frame: number of the frame among all that came, from 0.
        name: of its own, such as a file's; null where it has none.
        seconds: in the film; null of a camera.
        time: when it arrived, ISO 8601 in UTC.
        latency_s: from its arrival to the answer.
        change: percent by which it differs from the last that was looked at; null where that was not asked.
        dropped: frames since the last that was looked at which a newer one replaced.
        unchanged: frames since then that hardly differed from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    source: str
    frame: int
    name: str | None
    seconds: float | None
    time: str
    latency_s: float
    change: float | None
    dropped: int
    unchanged: int

    @property
    def where(self) -> str:
        """Which frame, in a word or two."""
        return self.name or (self.time if self.seconds is None else f"{self.seconds:.1f} s")


class FrameFailure(FramePlace):
    """Why there is no answer about a frame."""

    version: Literal["edgeq.frame-failure/1"] = "edgeq.frame-failure/1"
    reason: str


def place_of(source: str, looked: Looked[Any]) -> dict[str, Any]:
    """The fields of a `FramePlace`.

    Args:
        source: its name.
        looked: the frame.
    """
    return {
        "source": source,
        "frame": looked.number,
        "name": looked.name,
        "seconds": None if looked.seconds is None else round(looked.seconds, 3),
        "time": datetime.fromtimestamp(looked.time, timezone.utc).isoformat(timespec="milliseconds"),
        "latency_s": round(looked.latency, 4),
        "change": None if looked.change is None else round(looked.change, 2),
        "dropped": looked.dropped,
        "unchanged": looked.unchanged,
    }
