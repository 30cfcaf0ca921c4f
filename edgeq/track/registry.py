"""The trackers that there are, and what is done with those that were asked for: another tracker is a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from edgeq.errors import InputError, first_line
from edgeq.frames.address import without_secrets
from edgeq.track.base import Record, Tracker
from edgeq.track.mlflow import MlflowTracker
from edgeq.track.tensorboard import TensorBoardTracker

__all__ = ["TRACKERS", "open_trackers", "record_on"]

TRACKERS: Final[dict[str, Callable[[str], Tracker]]] = {
    "mlflow": MlflowTracker,
    "tensorboard": TensorBoardTracker,
}
"""Name -> what makes a tracker of the text behind the colon, which may be empty."""


def open_trackers(targets: str | Sequence[str]) -> tuple[Tracker, ...]:
    """The trackers that texts name, each checked.

    Args:
        targets: `NAME` or `NAME:PLACE`, such as `mlflow:http://127.0.0.1:5000` or `tensorboard:runs`.

    Raises:
        ImportError: the package of one is not installed.
        InputError: there is none of that name, it does not answer, or cannot be written to.
    """
    found = tuple(_named(text) for text in ([targets] if isinstance(targets, str) else targets))
    for tracker in found:
        tracker.check()
    return found


def record_on(trackers: Sequence[Tracker], record: Callable[[], Record]) -> tuple[str, ...]:
    """Give a record to each tracker. None of them is worth a result that took hours: what goes wrong is a warning.

    Args:
        trackers: those of `open_trackers`.
        record: makes it; not called where there are no trackers.

    Returns:
        A warning for each that did not take it.
    """
    return tuple(_failures(trackers, record))


def _failures(trackers: Sequence[Tracker], record: Callable[[], Record]) -> Iterator[str]:
    made: Record | None = None
    for tracker in trackers:
        try:
            made = made or record()
            tracker.write(made)
        except Exception as error:  # of a library, a server or a disk
            yield f"{tracker.name} did not take the figures: {without_secrets(first_line(error))}"


def _named(text: str) -> Tracker:
    name, _, place = text.partition(":")
    if name not in TRACKERS:
        raise InputError(
            f"there is no tracker {name!r}",
            expected=f"one of {', '.join(TRACKERS)}, and its place: mlflow:http://127.0.0.1:5000, tensorboard:runs",
        )
    return TRACKERS[name](place)
