"""`edgeq watch`."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click
from pydantic import BaseModel, ConfigDict

from edgeq.cli import console
from edgeq.cli.device.frame_options import (
    frame_options,
    looking_options,
    open_outlets,
    refuse_frame_options,
    require_end,
    say_counts,
    take_frame_options,
)
from edgeq.cli.device.serve import bundle_options, chosen_settings, open_chosen
from edgeq.cli.exit_statuses import DONE
from edgeq.cli.flags import PATH, json_option
from edgeq.errors import InputError
from edgeq.frames.looking import FrameCounts
from edgeq.runtime.vlm.model import MAX_NEW_TOKENS
from edgeq.service.settings import WATCH_TIMEOUT_S, ServiceSettings

if TYPE_CHECKING:
    from edgeq.frames.base import FrameSource
    from edgeq.frames.outlets import Outlets
    from edgeq.service.served_model import ServedModel
    from edgeq.service.watch import ImageFailure, ImageReport, Watch
    from edgeq.service.watch_frames import WatchFrames

__all__ = ["command"]

_TERMINATED: Final = 128 + signal.SIGTERM


class _Summary(BaseModel):
    """What `--json` prints at the end of a folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.watched/1"] = "edgeq.watched/1"
    directory: Path
    reports: tuple[str, ...]
    failures: dict[str, str]


class _FrameSummary(BaseModel):
    """What `--json` prints at the end of a film."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.watched-frames/1"] = "edgeq.watched-frames/1"
    source: str
    counts: FrameCounts


@click.command("watch")
@click.argument("bundle", type=PATH)
@click.argument("source")
@bundle_options
@click.option("--once", is_flag=True, help="Stop when every image in the folder has a report or a reason.")
@click.option(
    "--interval",
    type=click.FloatRange(0.0, min_open=True),
    default=0.5,
    show_default=True,
    help="Seconds between two looks at the folder.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.0),
    default=WATCH_TIMEOUT_S,
    show_default=True,
    help="Seconds that an image may still be in the making, and that a stream may be silent.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    default=MAX_NEW_TOKENS,
    show_default=True,
    help="The longest answer about an image, in tokens.",
)
@frame_options
@json_option
def command(
    bundle: Path,
    source: str,
    config: Path | None,
    once: bool,
    interval: float,
    timeout: float,
    max_new_tokens: int,
    as_json: bool,
    **flags: Any,
) -> int:
    """Report on what comes from SOURCE: a folder, a film or a camera.

    BUNDLE is a bundle's directory or a store of `edgeq install`. Ctrl-C ends it.

    A folder: each image gets a report beside it, as IMAGE.json, in the order of their times, each once: started again,
    it goes on where it was. What cannot be looked at is moved to SOURCE/failed, with the reason beside it.

    A film (a file), a camera (/dev/video0), an address (rtsp://…, http://…, tcp://…, udp://…) or a pipeline of
    GStreamer ("nvarguscamerasrc ! …"): reports go to stdout, to --lines and to --on-report. Of a film every frame is
    looked at. Of a camera the newest always is; a stream that is lost is connected to again.
    """
    from edgeq.frames.registry import SourceOptions, open_source
    from edgeq.service.watch import Watch
    from edgeq.service.watch_frames import WatchFrames
    from edgeq.service.watch_inference import watch_inference

    given = take_frame_options(flags)
    settings = chosen_settings(config, **flags)
    if _is_folder(source):
        if as_json and not once:
            raise click.UsageError("--json tells all at the end, and there is none: add --once")
        refuse_frame_options(given, "a folder")
        if not Path(source).is_dir():
            raise InputError(f"{source} is no directory", expected="the folder that images are put into", passing=True)
        with open_outlets(given) as outlets, closing(_served(bundle, settings)) as served:
            look = watch_inference(served, settings.request_seconds, max_new_tokens)
            watch = Watch(Path(source), look, served.name, time.monotonic, timeout)
            made = _all(watch, once=once, interval=interval)
            return _report_folder(Path(source), made, outlets, as_json=as_json)
    opened = open_source(source, SourceOptions(timeout, given["real_time"]))
    require_end(opened, as_json=as_json, frames=given["frames"], lines=given["lines"])
    with open_outlets(given) as outlets:
        opened.check()
        with closing(_served(bundle, settings)) as served:
            look = watch_inference(served, settings.request_seconds, max_new_tokens)
            options = looking_options(given, opened)
            watched = WatchFrames(opened, look, served.name, options, outlets=outlets, say=console.say)
            return _report_frames(opened, watched, as_json=as_json, keeps_all=options.keep_all)


def _is_folder(source: str) -> bool:
    """Whether a folder is meant, which may be missing."""
    path = Path(source)
    return path.is_dir() or not (path.exists() or path.suffix or "://" in source or "!" in source)


def _served(bundle: Path, settings: ServiceSettings) -> ServedModel:
    served = open_chosen(bundle, settings, console.say)
    console.say(f"{served.backend}: {served.because}")
    return served


def _all(watch: Watch, *, once: bool, interval: float) -> Iterator[ImageReport | ImageFailure]:
    """What comes of every image, for ever, or until nothing waits any more."""
    pause = threading.Event()
    while True:
        yield from watch.turn()
        if once and not watch.waiting:
            return
        pause.wait(interval)


def _report_folder(
    directory: Path, found: Iterator[ImageReport | ImageFailure], outlets: Outlets, *, as_json: bool
) -> int:
    """Hand each report on; with `--json` print all names at the end."""
    from edgeq.service.watch import ImageFailure

    reports, failures = [], {}
    for made in found:
        outlets.report(made.model_dump_json(), None if as_json else _line(made))
        if not as_json:
            continue
        if isinstance(made, ImageFailure):
            failures[made.image] = made.reason
        else:
            reports.append(made.image)
    if as_json:
        console.print_json(_Summary(directory=directory, reports=tuple(reports), failures=failures))
    return DONE


def _report_frames(source: FrameSource, watched: WatchFrames, *, as_json: bool, keeps_all: bool) -> int:
    """Go through the frames, and tell what became of them, whatever ends it; SIGTERM is an end that was asked for."""
    try:
        deque(watched.reports(for_people=not as_json), maxlen=0)
    except SystemExit as stop:
        if stop.code != _TERMINATED:
            raise
        console.say("told to stop")
    finally:
        say_counts(watched.counts, latency=not keeps_all)
    if as_json:
        console.print_json(_FrameSummary(source=source.name, counts=watched.counts))
    return DONE


def _line(made: ImageReport | ImageFailure) -> str:
    from edgeq.service.watch import ImageFailure

    if isinstance(made, ImageFailure):
        return f"{made.image}: failed: {made.reason.splitlines()[0]}"
    return f"{made.image}: {made.seen.model_dump_json()}"
