"""Options of verbs that look at films, cameras and folders, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import TYPE_CHECKING, Any, Final

import click

from edgeq.cli import console
from edgeq.cli.flags import PATH

if TYPE_CHECKING:
    from edgeq.frames.base import FrameSource
    from edgeq.frames.looking import FrameCounts, LookingOptions
    from edgeq.frames.outlets import Outlets

__all__ = [
    "frame_options",
    "looking_options",
    "open_outlets",
    "refuse_frame_options",
    "require_end",
    "say_counts",
    "take_frame_options",
]

_FOR_FRAMES: Final = ("fps", "min_change", "frames", "real_time", "overlay", "reconnect_delay_max")
_FOR_REPORTS: Final = ("lines", "on_report")
_OPTIONS: Final = (
    click.option("--fps", type=click.FloatRange(0.0, min_open=True), help="Frames a second at most.  [default: all]"),
    click.option(
        "--min-change",
        type=click.FloatRange(0.0, 100.0),
        metavar="PERCENT",
        help="Leave out frames of which no 1024th part changed so much since the last answer.  [default: none]",
    ),
    click.option("--frames", type=click.IntRange(1), help="End after so many answers.  [default: at a film's end]"),
    click.option("--real-time", is_flag=True, help="Play a film as a camera would, and drop what cannot be followed."),
    click.option(
        "--reconnect-delay-max",
        type=click.FloatRange(0.0, min_open=True),
        metavar="SECONDS",
        help="The longest wait between two tries to connect to a stream again.  [default: 10]",
    ),
    click.option("--overlay", type=PATH, help="Make a video (.mkv, .mp4) of the frames with what was said of them."),
    click.option("--lines", metavar="FILE|-", help="Add each report to FILE as a line of JSON; - prints it instead."),
    click.option(
        "--on-report",
        metavar="COMMAND|URL",
        help="Give each report as JSON to a command's stdin, or to a URL by POST, without waiting.",
    ),
)


def frame_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """The options that say which frames are looked at, and where reports go to."""
    return reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)


def take_frame_options(flags: dict[str, Any]) -> dict[str, Any]:
    """The values of `frame_options`, taken out of all that a command was given."""
    return {name: flags.pop(name) for name in (*_FOR_FRAMES, *_FOR_REPORTS)}


def refuse_frame_options(given: dict[str, Any], what: str) -> None:
    """Raise UsageError where an option is given that has no meaning here.

    Args:
        given: all of `frame_options`.
        what: is looked at, in words.
    """
    for name in _FOR_FRAMES:
        if given[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} is for films and cameras, and this is {what}")


def looking_options(given: dict[str, Any], source: FrameSource) -> LookingOptions:
    """What is looked at.

    Args:
        given: all of `frame_options`.
        source: of the frames.
    """
    from edgeq.frames.looking import LookingOptions
    from edgeq.frames.reader import RECONNECT_S

    keep_all = not source.live and not given["real_time"]
    reconnect_s = given["reconnect_delay_max"] or RECONNECT_S
    return LookingOptions(given["fps"], given["min_change"] or 0.0, given["frames"], keep_all, reconnect_s)


@contextmanager
def open_outlets(given: dict[str, Any]) -> Iterator[Outlets]:
    """Where reports go to; at the end an overlay that failed is an error.

    Args:
        given: all of `frame_options`.

    Raises:
        InputError, OutputError: one of them can never be used, or the overlay could not be written to its end.
    """
    from edgeq.frames.outlets import Outlets

    outlets = Outlets(
        lines=given["lines"],
        overlay=given["overlay"],
        on_report=given["on_report"],
        say=console.say,
        print_line=click.echo,
    )
    with outlets:
        yield outlets
    if outlets.hook is not None and (outlets.hook.failed or outlets.hook.left_out):
        hook = outlets.hook
        console.say(f"--on-report: {hook.sent} sent, {hook.failed} failed, {hook.left_out} left out")
    if outlets.failure is not None:
        raise outlets.failure


def require_end(source: FrameSource, *, as_json: bool, frames: int | None, lines: str | None) -> None:
    """Raise UsageError where one object is to be printed at an end that does not come, or beside lines.

    Args:
        source: of the frames.
        as_json: one object is to be printed.
        frames: answers after which it ends.
        lines: where lines go to.
    """
    if as_json and source.live and frames is None:
        raise click.UsageError("--json tells all at the end, and a camera has none: add --frames, or take --lines -")
    if as_json and lines == "-":
        raise click.UsageError("--json prints one object, and --lines - prints many: take one of them")


def say_counts(counts: FrameCounts, *, latency: bool) -> None:
    """What became of the frames, on stderr.

    Args:
        counts: of them.
        latency: whether frames came by themselves, so that how long they waited means something.
    """
    parts = [f"{counts.answered:,} answered"]
    words = {
        "failed": "failed",
        "thinned": "left out by --fps",
        "dropped": "dropped for newer ones",
        "unchanged": "hardly changed",
    }
    parts += [f"{getattr(counts, name):,} {told}" for name, told in words.items() if getattr(counts, name)]
    console.say(f"{counts.seen:,} frames: {', '.join(parts)}")
    if counts.damaged:
        console.say(f"{counts.damaged:,} pieces could not be decoded, and were passed over")
    if counts.lost:
        console.say(f"the stream was lost {counts.lost:,} times")
    if latency and counts.latency_median_s is not None:
        console.say(
            f"from frame to answer: median {counts.latency_median_s:.2f} s, 95 % within {counts.latency_p95_s:.2f} s, "
            f"longest {counts.latency_max_s:.2f} s"
        )
